"""From the command line's words to a conversation: find the release, load it, hand over to the terminal."""

from pathlib import Path

from parakeet.errors import ParakeetError
from parakeet.home import home, latest_release


def launch_chat(
    message: str | None,
    model_path: Path | None,
    system: str | None,
    seed: int | None,
    temperature: float | None,
    max_tokens: int | None,
) -> int:
    """Open a release (the latest where none is named) and talk; the process's exit status."""
    from parakeet.release.verify import open_release

    release = open_release(model_path or _latest())
    # Cheap refusals are behind us: torch takes most of the seconds until the first token.
    from parakeet.chat.session import Session
    from parakeet.chat.terminal import run_chat
    from parakeet.generation.engine import Engine
    from parakeet.generation.sampling import SamplingSettings
    from parakeet.model.transformer import best_device, load_model
    from parakeet.tokenizer import Tokenizer

    defaults = release.generation
    settings = SamplingSettings(
        temperature=defaults.temperature if temperature is None else temperature,
        top_p=defaults.top_p,
        min_p=defaults.min_p,
        frequency_penalty=defaults.frequency_penalty,
        presence_penalty=defaults.presence_penalty,
        max_tokens=defaults.max_tokens if max_tokens is None else max_tokens,
        seed=seed,
    )
    engine = Engine(load_model(release.directory, best_device()), Tokenizer.load(release.directory))
    return run_chat(Session(engine, settings, system or ""), release.name, message)


def _latest() -> Path:
    latest = latest_release(home())
    if not latest.exists():
        raise ParakeetError(f"There is no released model in {home()} yet. Make one with: parakeet build")
    return latest.resolve()
