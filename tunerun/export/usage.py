"""Code for a model card: how to call a tuned model in each exported form.

A new form is an entry of `USAGES`. The code is complete: it can be copied and run beside the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tunerun.engine.chat import ChatFormat
from tunerun.errors import InputError
from tunerun.job import GenerateOptions


@dataclass(frozen=True)
class Call:
    """What the code for one tuned model depends on.

    Attributes:
        name: of the tuned model, `tunedModels/<id>`.
        file: of a form that is one file its name, of one in a registry its URI; empty: of another, or not known.
        columns: the columns that the template reads.
        base: the name by which others find the base model.
        revision: its commit on the hub; None: not known.
        chat: None: a service has the weights, and knows the format.
        has_conversations: whether it was trained behind system messages or earlier turns.
    """

    name: str
    file: str
    columns: tuple[str, ...]
    base: str
    revision: str | None
    chat: ChatFormat | None
    generation: GenerateOptions
    has_conversations: bool = False


@dataclass(frozen=True)
class Usage:
    """A form: what the hub calls it, and its code.

    Attributes:
        title: what a reader calls it.
        library: the hub's `library_name`; None: it has none for this form.
        relation: the hub's `base_model_relation`.
        code: a block of Markdown.
    """

    title: str
    library: str | None
    relation: str
    tags: tuple[str, ...]
    code: Callable[[Call], str]

    @property
    def needs_base(self) -> bool:
        """Whether the base model's weights are not part of it."""
        return self.relation == "adapter"


def usage_of(form: str) -> Usage:
    """Look a form up.

    Raises:
        InputError: there is none of this name; lists them.
    """
    if form not in USAGES:
        raise InputError(f"{form!r} is not a form of a tuned model; choose one of {', '.join(USAGES)}")
    return USAGES[form]


def _merged(call: Call) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # this folder, or its name on the hub',
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        *_ask(call, "model.generate(**prompt)"),  # its generation_config.json says how
    ]
    return _python(lines)


def _adapter(call: Call) -> str:
    revision = f", revision={call.revision!r}" if call.revision else ""
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        'folder = "."  # this folder, or its name on the hub',
        f"base = AutoModelForCausalLM.from_pretrained({call.base!r}{revision})",
        "model = PeftModel.from_pretrained(base, folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "manner = GenerationConfig.from_pretrained(folder)",
        *_ask(call, "model.generate(**prompt, generation_config=manner)"),
    ]
    return _python(lines)


def _gguf(call: Call) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'folder, file = ".", {call.file!r}',
        "model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)",
        "tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)",
        *_ask(call, f"model.generate(**prompt, {_manner(call.generation)})"),
    ]
    return (
        _python(lines) + "\n\nWith llama.cpp (the file holds the chat template; it was checked with transformers, not "
        f"with llama.cpp):\n\n```sh\nllama-server -m {call.file} --jinja --temp {call.generation.temperature:g}\n```"
    )


def _mlflow(call: Call) -> str:
    row = ", ".join(f"{column!r}: ['...']" for column in call.columns)
    lines = [
        "import mlflow",
        "import pandas",
        "",
        f"model = mlflow.pyfunc.load_model({call.file or 'models:/NAME@ALIAS'!r})",
        f"print(model.predict(pandas.DataFrame({{{row}}})))",
    ]
    return _python(lines)


def _tunerun(call: Call) -> str:
    row = " ".join(f"{column}='...'" for column in call.columns)
    return f"```sh\ntunerun predict --run {call.name} {row}".rstrip() + "\n```"


USAGES: Mapping[str, Usage] = {
    "merged": Usage("one model, the adapter merged into the weights", "transformers", "finetune", (), _merged),
    "adapter": Usage("a LoRA adapter", "peft", "adapter", ("lora",), _adapter),
    "gguf": Usage("a GGUF file", None, "quantized", ("gguf",), _gguf),
    "mlflow": Usage("an MLflow model", None, "adapter", ("mlflow",), _mlflow),
    "tunerun": Usage("a LoRA adapter with tunerun's record", None, "adapter", ("lora",), _tunerun),
}
"""By the name that `tunerun export --to` takes; the last two are what `promote` and `bundle` hand on."""


def _ask(call: Call, generate: str) -> list[str]:
    """A function that answers an input as the tuned model was measured."""
    head = ["def ask(text_input):", '    turns = [{"role": "user", "content": text_input}]']
    if call.has_conversations:
        head = [
            "def ask(turns):",
            '    """`turns` as in training: {"role": "system", "content": "..."}, then "user", "assistant", ...."""',
        ]
    return [
        "",
        "",
        *head,
        "    prompt = tokenizer.apply_chat_template(",
        '        turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        "    )",
        f"    tokens = {generate}",
        '    text = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)',
        f"    return text{_cuts(call.chat)}",
    ]


def _manner(options: GenerateOptions) -> str:
    how = f"max_new_tokens={options.max_output_tokens}"
    if options.temperature > 0:
        return f"{how}, do_sample=True, temperature={options.temperature:g}"
    return f"{how}, do_sample=False"


def _cuts(chat: ChatFormat | None) -> str:
    """What is taken off an answer's text: what the chat format writes between a prompt and it, and behind it."""
    if chat is None:
        return ""
    before = f".removeprefix({chat.start!r})" if chat.start else ""
    behind = chat.space_before_end
    return before + (f".removesuffix({behind!r})" if behind else "")


def _python(lines: list[str]) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"
