"""Recipe: the one typed configuration of a build. `parakeet.recipe_file` reads it from YAML."""

from dataclasses import fields
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, create_model, model_validator

from parakeet.recipe_sources import TRAINING_KEYS, EvaluationSet, Section, Source
from parakeet.sampling_settings import OPTIONS, SamplingSettings

PhraseWords = Annotated[int, Field(ge=1, le=100)]
PhraseShares = dict[PhraseWords, Annotated[float, Field(ge=0.0, le=1.0)]]


class Repetition(Section):
    """The repetition rules of Gopher (Rae et al. 2021, table A1), for plain documents of `min_words` and more.

    Each is the largest share that is let pass; null leaves a rule out.
    """

    min_words: int = Field(default=50, ge=1)
    """Shorter documents are not held to shares of their text: one refrain would be a third of a short poem."""
    duplicate_lines: float | None = Field(default=None, ge=0.0, le=1.0)
    """Lines that stand twice. Off: at the paper's 0.3 it takes the speakers' names of a play for rubbish."""
    duplicate_paragraphs: float | None = Field(default=0.3, ge=0.0, le=1.0)
    """Paragraphs that stand twice."""
    duplicate_line_characters: float | None = Field(default=0.2, ge=0.0, le=1.0)
    """Characters in lines that stand twice."""
    duplicate_paragraph_characters: float | None = Field(default=0.2, ge=0.0, le=1.0)
    """Characters in paragraphs that stand twice."""
    top_phrases: PhraseShares = {2: 0.2, 3: 0.18, 4: 0.16}
    """Characters in the most frequent phrase, by its words."""
    duplicate_phrases: PhraseShares = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    """Characters in phrases that stand twice, by their words."""


class Quality(Section):
    """The quality rules of Gopher (Rae et al. 2021, table A1), for plain documents; null leaves a rule out."""

    min_words: int | None = Field(default=50, ge=1)
    """Fewest words."""
    max_words: int | None = Field(default=100_000, ge=1)
    """Most words."""
    min_mean_word_length: float | None = Field(default=3.0, ge=0.0)
    """Shortest mean word, in characters."""
    max_mean_word_length: float | None = Field(default=10.0, ge=0.0)
    """Longest mean word, in characters."""
    max_symbols: float | None = Field(default=0.1, ge=0.0)
    """Most hash signs and ellipses a word."""
    max_bullet_lines: float | None = Field(default=0.9, ge=0.0, le=1.0)
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_lines: float | None = Field(default=0.3, ge=0.0, le=1.0)
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_words: float | None = Field(default=0.8, ge=0.0, le=1.0)
    """Smallest share of words with a letter."""
    min_stop_words: int | None = Field(default=2, ge=0)
    """Fewest of the eight commonest English words."""


class Clean(Section):
    min_characters: int = Field(default=2, ge=1)
    """Shortest document kept, in characters of content."""
    max_characters: int = Field(default=2_000_000, ge=1)
    """Longest document kept, in characters of content."""
    mojibake: bool = True
    """Whether text that was decoded wrongly ("donâ€™t") is mended, by ftfy."""
    boilerplate: Literal["keep", "drop"] = "keep"
    """Conversations in which a chat model talks of itself ("As an AI language model"); they are counted either way."""
    personal_data: Literal["keep", "mask"] = "keep"
    """E-mail addresses, phone numbers and IP addresses; they are counted either way."""
    languages: list[str] = []
    """ISO 639-1 codes of the languages that are kept ([en]); empty keeps all (pip install parakeet-lm[language])."""
    repetition: Repetition | None = Repetition()
    """Plain documents that repeat themselves; null keeps them."""
    quality: Quality | None = None
    """Plain documents that are hardly prose; null keeps them."""


class Decontamination(Section):
    """Text that must not be trained on."""

    sets: list[EvaluationSet] = []
    """What is looked for in every document, from the same kinds of places as sources."""
    words: int = Field(default=13, ge=5, le=50)
    """Words in a row that a document may not share with a record of a set; of a question with fewer words, the whole
    question and answer."""

    @model_validator(mode="after")
    def _no_training_settings(self) -> "Decontamination":
        for chosen in self.sets:
            # Of a recipe written by Recipe.to_yaml every setting is there, with its default.
            differing = chosen.model_dump(exclude_defaults=True).keys()
            for key in sorted(differing & TRAINING_KEYS):
                raise ValueError(f"evaluation set {chosen.name} has {key}: nothing of it is trained on, so take it out")
        return self


class Deduplication(Section):
    shingle_words: int = Field(default=5, ge=1, le=20)
    """Words in a shingle."""
    buckets: int = Field(default=14, ge=1, le=64)
    """Bands of the MinHash; more find more pairs."""
    hashes_per_bucket: int = Field(default=8, ge=1, le=32)
    """Hashes in a band; more find only closer pairs. 14 × 8 has its threshold at a Jaccard of 0.72."""
    min_words: int = Field(default=20, ge=5)
    """Shorter documents are compared exactly only, so that templated talk is not taken for copies."""
    turns: bool = False
    """Whether each question with its reply is compared too: one that stands in another conversation is cut out."""
    held_out_fraction: float = Field(default=0.02, ge=0.0, le=0.5)
    """Share of documents (by hash) kept from training for evaluation; synthetic text splits by question."""


class Slurm(Section):
    """How jobs are asked for; datatrove writes the script."""

    partition: str = Field(min_length=1)
    """Partition."""
    time: str = "24:00:00"
    """Longest run of a task."""
    qos: str = "normal"
    """Quality of service; empty leaves it out."""
    memory_gib: int = Field(default=4, ge=1)
    """Memory of a task."""
    environment: str = ""
    """Shell command that activates the environment in which Parakeet is installed; empty takes this one."""


class Executor(Section):
    """Where the tasks of the data stages run, through datatrove's executors. The result is the same for all."""

    kind: Literal["local", "slurm", "ray"] = "local"
    """Processes on this machine, an array job of Slurm, or Ray; the last two need the assets on a shared folder."""
    workers: int = Field(default=0, ge=0, le=10_000)
    """Tasks at once; 0 takes one a core (local), or all of them."""
    ray_address: str = ""
    """Address of a Ray cluster ("auto", "ray://…"); empty starts Ray on this machine."""
    slurm: Slurm | None = None
    """Needed for kind slurm."""

    @model_validator(mode="after")
    def _complete(self) -> "Executor":
        if self.kind == "slurm" and self.slurm is None:
            raise ValueError("kind slurm needs executor.slurm with a partition")
        return self


class TokenizerSettings(Section):
    kind: Literal["bpe", "cl100k_base"] = "bpe"
    """A byte-level BPE trained on this corpus, or OpenAI's cl100k_base with Parakeet's four tokens."""
    vocabulary: int = Field(default=4096, ge=320, le=65_536)
    """Upper bound on the trained tokens, control tokens not counted; `bpe` only."""


class Shards(Section):
    loss_on: Literal["all", "assistant"] = "all"
    """Tokens of a conversation that are trained on; plain documents are trained on whole."""
    shard_bytes: int = Field(default=384 << 20, ge=1 << 16, le=1 << 30)
    """Size at which a shard is closed, in bytes."""
    min_held_out_bytes: int = Field(default=1000, ge=0)
    """Least held-out text, in bytes of content; with less, no figure of the evaluation would mean anything."""


class LaterRows(Section):
    """Rows of another length towards the end of training."""

    row_tokens: int = Field(ge=16, le=131_072)
    """Tokens in one of these rows; at most the model's context."""
    share: float = Field(gt=0.0, lt=1.0)
    """Share of all tokens that is trained on in these rows."""


class Packing(Section):
    row_tokens: int = Field(default=256, ge=16, le=131_072)
    """Tokens in one training row; at most the model's context."""
    then: list[LaterRows] = []
    """Rows of other lengths, in this order, for the last shares of the tokens: 8,192 after 1,024, say."""
    seed: int = Field(default=1, ge=0)
    """Seed of the order of rows, with the epoch."""

    @model_validator(mode="after")
    def _shares(self) -> "Packing":
        if sum(phase.share for phase in self.then) >= 1.0:
            raise ValueError("the shares of packing.then leave nothing for rows of packing.row_tokens")
        return self

    @property
    def lengths(self) -> list[int]:
        """Every row length that is trained at, in the order of training, repeats included."""
        return [self.row_tokens, *(phase.row_tokens for phase in self.then)]


class ModelSettings(Section):
    layers: int = Field(ge=1, le=256)
    """Transformer blocks; two neighbours share one key/value projection."""
    heads: int = Field(ge=1, le=256)
    """Attention heads."""
    width: int = Field(ge=8, le=16_384)
    """Width of the residual stream; a multiple of the heads."""
    context: int = Field(ge=16, le=131_072)
    """Longest sequence the model is meant for, in tokens."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the residual branches while training."""

    @model_validator(mode="after")
    def _whole_heads(self) -> "ModelSettings":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Training(Section):
    tokens: int = Field(ge=1)
    """Tokens to train on in all, repeats counted."""
    batch_tokens: int = Field(ge=16)
    """Tokens in one optimizer step; a multiple of the row's."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Tokens in one forward pass, a multiple of the row's; gradients are accumulated up to batch_tokens. 0 takes what
    fits the device."""
    learning_rate: float = Field(gt=0, le=1)
    """Peak learning rate."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps over which the learning rate rises from 0."""
    decay_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """Last share of all steps, over which the learning rate falls to 0."""
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    """torch's fused AdamW; bitsandbytes' with 8-bit state (a quarter of the state's memory); or Muon for the matrices
    of the blocks, with AdamW for the rest."""
    weight_decay: float = Field(default=0.03, ge=0.0)
    """Weight decay, on matrices only."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the first moment."""
    beta2: float = Field(default=0.98, ge=0.0, lt=1.0)
    """AdamW's decay of the second moment."""
    gradient_clip: float = Field(default=1.0, gt=0.0)
    """Largest norm of the gradient."""
    z_loss: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight of log(Z)² in the loss, which keeps logits from drifting; 1e-4 where it is used, 0 without."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the products, forward and backward; the weights stay fp32."""
    residual: Literal["fp32", "bf16"] = "fp32"
    """Precision of the residual stream between blocks; bf16 halves what it takes of the memory."""
    attention: Literal["auto", "reference", "fused", "flex"] = "auto"
    """Backend of the attention; all compute the same."""
    recompute: Literal["auto", "none", "mlp", "block"] = "auto"
    """What the backward pass computes again instead of keeping it: nothing, the MLPs, whole blocks; auto takes the
    least that fits the device."""
    compile: bool = False
    """Whether torch.compile builds the blocks; for CUDA (on a CPU it made a step five times slower)."""
    processes: int = Field(default=1, ge=0, le=64)
    """Processes that share each step, one a GPU; 0 takes every GPU there is."""
    seed: int = Field(default=1, ge=0)
    """Seed of the weights and of dropout."""
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""
    keep_every: int = Field(default=0, ge=0)
    """Of the checkpoints, those of every so many steps are kept for good; 0 keeps none."""
    validation_tokens: int = Field(default=65_536, ge=0)
    """Held-out tokens whose loss is measured with each checkpoint; 0 measures none."""
    tensorboard: bool = False
    """Whether the run's figures are written for TensorBoard too (pip install parakeet-lm[tensorboard])."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 takes what torch chooses."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto takes CUDA where there is one."""


class Evaluation(Section):
    questions_per_task: int = Field(default=200, ge=1, le=5000)
    """Held-out questions asked of each synthetic task."""
    max_bytes: int = Field(default=400_000, ge=1000)
    """Most held-out text measured per source, in bytes of content."""
    position_tokens: int = Field(default=0, ge=0, le=1 << 20)
    """How far out bits per byte are measured by position, in tokens; 0 takes the model's context."""
    prompts: list[str] = [
        "Who are you?",
        "Hello!",
        "What is the capital of France?",
        "Count from 3 to 8.",
        "Tell me a story about a fox.",
    ]
    """Prompts whose greedy replies are printed in the report."""


def _sampling_keys() -> dict[str, Any]:
    """Type, default and range of each sampling option that a recipe can set."""
    keys: dict[str, Any] = {}
    for item in fields(SamplingSettings):
        option = OPTIONS[item.name]
        if option.limits is not None:
            limits: Any = option.limits
            keys[item.name] = (item.type, Field(default=item.default, description=option.help, **limits))
    return keys


_SamplingKeys: Any = create_model("_SamplingKeys", __base__=Section, **_sampling_keys())


class Generation(_SamplingKeys):
    """Sampling defaults of the released model, as parakeet/sampling_settings.py defines them."""


class OriginalCheckpoint(Section):
    """The checkpoint that the author of the original model published, and where else it may be had."""

    file_name: str = Field(
        default="parakeet8k-c8192-d1152-fexp4_v100288_h18_l18-alibi+gqa2.pth",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\.pth$",
    )
    """Its name in `assets/models/`; heads and context are read from it."""
    drive_id: str | None = Field(default="14GG7AhKQviMcYDgQcnp9P9YAXNYzV6gf", pattern=r"^[A-Za-z0-9_-]{10,100}$")
    """Google Drive id, tried last; null does without."""
    mirrors: list[str] = []
    """HTTP(S) addresses or local paths, tried in this order before Google Drive."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Hash that the file must have, where it is known."""
    n_bytes: int | None = Field(default=None, ge=1)
    """Size that the file must have, where it is known, in bytes."""


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name of the recipe and of the model it makes."""
    description: str = ""
    """One line for people."""
    sources: list[Source] = Field(min_length=1)
    """Where the text comes from."""
    limit: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of every source that is taken: 0.001 makes a trial of a large recipe."""
    clean: Clean = Clean()
    """Filters on single documents."""
    decontamination: Decontamination = Decontamination()
    """Evaluation sets that must not be trained on."""
    deduplication: Deduplication = Deduplication()
    """Search for copies, and the share that is held out."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """Text to ids."""
    shards: Shards = Shards()
    """Token files."""
    packing: Packing = Packing()
    """Documents into rows."""
    model: ModelSettings
    """Shape of the transformer."""
    training: Training
    """How it learns."""
    evaluation: Evaluation = Evaluation()
    """What is measured."""
    executor: Executor = Executor()
    """Where the data stages run; changes nothing of what they make."""
    generation: Generation = Generation()
    """Defaults of the released model's chat."""
    original: OriginalCheckpoint = OriginalCheckpoint()
    """The published checkpoint; only `--select original_model` looks at it."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]}: give each its own name")
        sets = [chosen.name for chosen in self.decontamination.sets]
        for name in sets:
            if sets.count(name) > 1 or name in names:
                raise ValueError(f"evaluation set {name} has the name of another one or of a source: give it its own")
        without = [source.name for source in self.sources if source.weight is None]
        if 0 < len(without) < len(self.sources):
            raise ValueError(f"source {without[0]} has no weight, but others have: give one to each source, or to none")
        for index, row_tokens in enumerate(self.packing.lengths):
            key = f"packing.then[{index - 1}].row_tokens" if index else "packing.row_tokens"
            if row_tokens > self.model.context:
                raise ValueError(f"{key} {row_tokens} is beyond model.context {self.model.context}")
            if self.training.batch_tokens % row_tokens:
                raise ValueError(
                    f"training.batch_tokens {self.training.batch_tokens} is not a multiple of {key} {row_tokens}"
                )
            if self.training.micro_batch_tokens % row_tokens:
                raise ValueError(
                    f"training.micro_batch_tokens {self.training.micro_batch_tokens} is not a multiple of {key} "
                    f"{row_tokens}; 0 takes what fits the device"
                )
        if self.training.micro_batch_tokens > self.training.batch_tokens:
            raise ValueError(
                f"training.micro_batch_tokens {self.training.micro_batch_tokens} is beyond training.batch_tokens "
                f"{self.training.batch_tokens}"
            )
        if self.training.attention == "flex" and self.training.device == "cpu":
            raise ValueError("training.attention flex needs a CUDA device, and training.device is cpu")
        return self

    def part(self, *sections: str) -> dict[str, Any]:
        """The named sections as plain JSON values: what a stage reads and its fingerprint covers."""
        return {name: self.model_dump(mode="json", include={name})[name] for name in sections}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
