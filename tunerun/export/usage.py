"""Code for model cards that calls a tuned model, for each exported form.

A new form is an entry of `USAGES`. The code is complete: it runs as it is when copied into the folder of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tunerun.engine.chat_format import ChatFormat
from tunerun.errors import InputError
from tunerun.generation import GenerateOptions
from tunerun.markdown import code_block


@dataclass(frozen=True)
class UsageContext:
    """The values that the code for a tuned model contains.

    Attributes:
        name: of the tuned model, `tunedModels/<id>`.
        file: of a form that is one file its name, of one in a registry its URI; empty: another form, or not known.
        columns: that the template reads.
        base: the name by which others find the base model.
        revision: commit of the base model on the hub; None: not known.
        chat: the chat format; None: a service has the weights and applies its own format.
        generation: how the tuned model was measured.
        has_conversations: whether training examples had system messages or earlier turns.
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
    """The description of a form for the hub, and the code that calls a model of that form.

    Attributes:
        title: a phrase for readers.
        library: the hub's `library_name`; None: the hub has none for this form.
        relation: the hub's `base_model_relation`.
        tags: further tags for the hub.
        code: returns the code as Markdown.
    """

    title: str
    library: str | None
    relation: str
    tags: tuple[str, ...]
    code: Callable[[UsageContext], str]

    @property
    def needs_base(self) -> bool:
        """Whether the form does not contain the base model's weights."""
        return self.relation == "adapter"


def usage_of(form: str) -> Usage:
    """Return the usage of a form.

    Args:
        form: a key of `USAGES`.

    Raises:
        InputError: the form is unknown; the message lists the forms.
    """
    if form not in USAGES:
        raise InputError(f"{form!r} is not a form of a tuned model; choose one of {', '.join(USAGES)}")
    return USAGES[form]


def _merged(context: UsageContext) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # this folder, or its name on the hub',
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        *_ask(context, "model.generate(**prompt)"),  # its generation_config.json says how
    ]
    return _python(lines)


def _adapter(context: UsageContext) -> str:
    # PEFT does not read the generation config in an adapter's folder; without it the base model's own would apply.
    revision = f", revision={context.revision!r}" if context.revision else ""
    lines = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig",
        "",
        'folder = "."  # this folder, or its name on the hub',
        f"base = AutoModelForCausalLM.from_pretrained({context.base!r}{revision})",
        "model = PeftModel.from_pretrained(base, folder)",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "generation = GenerationConfig.from_pretrained(folder)",
        *_ask(context, "model.generate(**prompt, generation_config=generation)"),
    ]
    return _python(lines)


def _gguf(context: UsageContext) -> str:
    # A GGUF file has no generation_config.json, so the options are written out.
    options = context.generation
    how = f"max_new_tokens={options.max_output_tokens}, do_sample={options.temperature > 0}"
    if options.temperature > 0:
        how += f", temperature={options.temperature:g}"
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'folder, file = ".", {context.file!r}',
        "model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)",
        "tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)",
        *_ask(context, f"model.generate(**prompt, {how})"),
    ]
    # --jinja: with the chat template of the file, not the nearest one that llama.cpp has built in.
    server = f"llama-server -m {context.file} --jinja --temp {options.temperature:g}"
    return (
        f"{_python(lines)}\n\nWith llama.cpp (the file holds the chat template; it was checked with transformers, not "
        f"with llama.cpp):\n\n{code_block(server, 'sh')}"
    )


def _mlflow(context: UsageContext) -> str:
    row = ", ".join(f"{column!r}: ['...']" for column in context.columns)
    lines = [
        "import mlflow",
        "import pandas",
        "",
        f"model = mlflow.pyfunc.load_model({context.file or 'models:/NAME@ALIAS'!r})",
        f"print(model.predict(pandas.DataFrame({{{row}}})))",
    ]
    return _python(lines)


def _tunerun(context: UsageContext) -> str:
    row = " ".join(f"{column}='...'" for column in context.columns)
    return code_block(f"tunerun predict --run {context.name} {row}".rstrip(), "sh")


USAGES: Mapping[str, Usage] = {
    "merged": Usage("one model, the adapter merged into the weights", "transformers", "finetune", (), _merged),
    "adapter": Usage("a LoRA adapter", "peft", "adapter", ("lora",), _adapter),
    "gguf": Usage("a GGUF file", None, "quantized", ("gguf",), _gguf),
    "mlflow": Usage("an MLflow model", None, "adapter", ("mlflow",), _mlflow),
    "tunerun": Usage("a LoRA adapter with tunerun's record", None, "adapter", ("lora",), _tunerun),
}
"""By the name that `tunerun export --to` takes; `promote` and `bundle` write the last two."""


def _ask(context: UsageContext, generate: str) -> list[str]:
    """Lines of a function that answers an input as the tuned model did when it was measured."""
    # The chat format may write text between the prompt and the answer, and after it: neither is part of the answer.
    cuts = ""
    if context.chat is not None:
        cuts += f".removeprefix({context.chat.start!r})" if context.chat.start else ""
        behind = context.chat.space_before_end
        cuts += f".removesuffix({behind!r})" if behind else ""
    head = ["def ask(text_input):", '    turns = [{"role": "user", "content": text_input}]']
    if context.has_conversations:
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
        # What `generate` returns begins with the prompt.
        '    text = tokenizer.decode(tokens[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)',
        f"    return text{cuts}",
    ]


def _python(lines: list[str]) -> str:
    return code_block("\n".join(lines), "python")
