"""A Modelfile: what `ollama create NAME -f MODELFILE` reads beside a GGUF file."""

from parakeet.export.source import ExportSource
from parakeet.tokenizer import END_OF_PROMPT, ROLE_TOKENS


def modelfile(source: ExportSource, file: str) -> str:
    """The text. `file` is the name of the GGUF file, in the same folder."""
    settings = source.release.generation
    parameters = {
        "num_ctx": source.config.context,
        "num_predict": min(settings.max_tokens, source.config.context),
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "min_p": settings.min_p,
        "repeat_penalty": settings.repetition_penalty,
        "frequency_penalty": settings.frequency_penalty,
        "presence_penalty": settings.presence_penalty,
        "stop": f'"{END_OF_PROMPT}"',
    }
    lines = [f"PARAMETER {name} {value}\n" for name, value in parameters.items()]
    return f'FROM ./{file}\n\n{"".join(lines)}\nTEMPLATE """{_template()}"""\n'


def _template() -> str:
    """Ollama's own template language, which is Go's. The text is that of `parakeet.template`."""
    system, human, assistant = (ROLE_TOKENS[role] for role in ("System", "Human", "Assistant"))
    role = (
        f'{{{{ if eq .Role "system" }}}}{system}{{{{ else if eq .Role "user" }}}}{human}{{{{ else }}}}{assistant}'
        "{{ end }}"
    )
    return f"{{{{ range .Messages }}}}{role}{{{{ .Content }}}}{END_OF_PROMPT}{{{{ end }}}}{assistant}"
