"""A key-value cache whose rows can leave and join while it is in use.

Every row ends at the last column and is padded on the left, as in transformers' own `generate`. So the distance of two
columns is the distance of their tokens, which sliding windows and ALiBi depend on, and a new token is one more column
for all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

SPARE_COLUMNS = 32
"""Columns allocated ahead, so that the cache is copied once in this many tokens and not for every token."""


class RowCache:
    """The keys and values of some rows, in all layers. New caches are empty.

    Attributes:
        states: the transformers cache to pass as `past_key_values`; a forward pass appends its columns.
    """

    def __init__(self) -> None:
        self.states: Any = DynamicCache()
        self.states.layer_class_to_replicate = _Layer  # undocumented: the class of new layers (transformers 5.23)

    @property
    def width(self) -> int:
        """The number of columns, which is the length of the longest row in tokens."""
        return self.states.get_seq_length() if self.states.layers else 0

    @property
    def bytes_per_token(self) -> int:
        """The size of one column of one row, in all layers."""
        views = [view for layer in self.states.layers for view in (layer.keys, layer.values)]
        return sum(view.shape[1] * view.shape[3] * view.element_size() for view in views)

    @property
    def is_plain(self) -> bool:
        """Whether every layer has keys and values of every column, so that rows can leave and join."""
        layers = self.states.layers
        widths = {view.shape[2] for layer in layers if layer.is_initialized for view in (layer.keys, layer.values)}
        return all(type(layer) is _Layer and layer.is_initialized for layer in layers) and len(widths) == 1

    def begin(self, rows: Sequence[tuple[RowCache, int]], width: int) -> None:
        """Fill an empty cache with copies of prefixes.

        Args:
            rows: for each row the cache that holds its prefix as the only row, and how many of its tokens to copy.
            width: the number of columns; shorter prefixes are padded on the left.
        """
        for number in range(max(len(source.states.layers) for source, _tokens in rows)):
            layer = _Layer()
            layer.begin([(source.states.layers[number], tokens) for source, tokens in rows], width)
            self.states.layers.append(layer)

    def only(self, row: int, tokens: int) -> RowCache:
        """Return a cache of one row of this one, shortened to its last tokens. Both share memory.

        Args:
            row: the number of the row.
            tokens: how many of its last tokens to keep.
        """
        single = RowCache()
        for layer in self.states.layers:
            one = _Layer()
            one.set(layer.stores[0].only(row, tokens), layer.stores[1].only(row, tokens))
            single.states.layers.append(one)
        return single

    def leave(self, row: int) -> None:
        """Remove a row; the last row moves into its place, so the caller has to move its own list in the same way."""
        for layer in self.states.layers:
            layer.set(*(store.leave(row) for store in layer.stores))

    def join(self, other: RowCache, rows: int) -> None:
        """Append another cache's rows after the present ones.

        Args:
            other: a cache of the same network; not used afterwards.
            rows: the largest number of rows expected later, for which memory is allocated now.
        """
        if not self.states.layers:
            self.states = other.states
            return
        for layer, joining in zip(self.states.layers, other.states.layers, strict=True):
            pairs = zip(layer.stores, joining.stores, strict=True)
            layer.set(*(store.join(others.view, rows) for store, others in pairs))

    def crop(self, width: int) -> None:
        """Keep the last `width` columns only; the columns before have to be padding in every row."""
        for layer in self.states.layers:
            layer.set(*(store.crop(width) for store in layer.stores))


class _Store:
    """The keys or the values of a layer, as a view [rows, heads, columns, head size] into a larger allocation.

    `append`, `leave`, `join` and `crop` change the store and return it.
    """

    def __init__(self, whole: torch.Tensor, rows: int, start: int, end: int) -> None:
        self._whole = whole
        self._rows, self._start, self._end = rows, start, end

    @property
    def view(self) -> torch.Tensor:
        return self._whole[: self._rows, :, self._start : self._end]

    def append(self, columns: torch.Tensor) -> _Store:
        end = self._end + columns.shape[2]
        if end > self._whole.shape[2]:
            # transformers' own cache copies everything for each token, this one once for `SPARE_COLUMNS` tokens.
            self._move(self._whole.shape[0], 0, columns.shape[2] + SPARE_COLUMNS)
            end = self._end + columns.shape[2]
        self._whole[: self._rows, :, self._end : end] = columns
        self._end = end
        return self

    def only(self, row: int, tokens: int) -> _Store:
        return _Store(self._whole[row : row + 1], 1, self._end - tokens, self._end)

    def leave(self, row: int) -> _Store:
        # One row is copied instead of all that follow.
        self._rows -= 1
        if row != self._rows:
            self._whole[row] = self._whole[self._rows]
        return self

    def join(self, others: torch.Tensor, rows: int) -> _Store:
        count, width = others.shape[0], others.shape[2]
        missing = width - (self._end - self._start)
        if self._rows + count > self._whole.shape[0] or missing > 0:
            self._move(max(rows, self._rows + count), max(missing, 0), SPARE_COLUMNS)
        new = self._whole[self._rows : self._rows + count, :, self._start : self._end]
        # Padding has to be finite: attention multiplies it by a weight of 0, and 0 times NaN is NaN.
        new[:, :, : new.shape[2] - width] = 0.0
        new[:, :, new.shape[2] - width :] = others
        self._rows += count
        return self

    def crop(self, width: int) -> _Store:
        self._start = self._end - width
        return self

    def _move(self, rows: int, padding: int, spare: int) -> None:
        """Copy to a larger allocation, with padding before the columns and spare columns after them."""
        view = self.view
        width = padding + view.shape[2]
        # Not initialised: only columns inside of the view are read, and these are written first.
        self._whole = view.new_empty((rows, view.shape[1], width + spare, view.shape[3]))
        self._start, self._end = 0, width
        self._whole[: self._rows, :, :padding] = 0.0
        self._whole[: self._rows, :, padding:width] = view


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """A layer of the cache in transformers' interface: `keys` and `values` are the views of two stores."""

    stores: tuple[_Store, _Store]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.is_initialized:
            self.set(self.stores[0].append(key_states), self.stores[1].append(value_states))
        else:
            self.set(*(_Store(new, new.shape[0], 0, new.shape[2]) for new in (key_states, value_states)))
        return self.keys, self.values

    def begin(self, rows: Sequence[tuple[_Layer, int]], width: int) -> None:
        """See `RowCache.begin`."""
        made = []
        for part in range(2):
            like = rows[0][0].stores[part].view
            whole = like.new_empty((len(rows), like.shape[1], width + SPARE_COLUMNS, like.shape[3]))
            start = 0
            while start < len(rows):  # rows with the same prefix are neighbours, so they are copied with one broadcast
                end = start + 1
                while end < len(rows) and rows[end] == rows[start]:
                    end += 1
                source, tokens = rows[start]
                whole[start:end, :, : width - tokens] = 0.0
                whole[start:end, :, width - tokens : width] = source.stores[part].view[:, :, :tokens]
                start = end
            made.append(_Store(whole, len(rows), 0, width))
        self.set(*made)

    def set(self, keys: _Store, values: _Store) -> None:
        """Make two stores the layer's state; to be called after each change, because the views change too."""
        self.stores = keys, values
        self.keys, self.values = keys.view, values.view
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True
