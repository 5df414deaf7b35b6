"""Recipe: the one typed configuration of a build. `parakeet.recipe_file` reads it from YAML."""

from dataclasses import fields
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, create_model, field_validator, model_validator

from parakeet.benchmark_files import FILES, STANDARD, set_name, tasks_of
from parakeet.learning_rate import DECAYS
from parakeet.recipe_sources import TRAINING_KEYS, EvaluationSet, Section, Source
from parakeet.sampling_settings import OPTIONS, SamplingSettings

PhraseWords = Annotated[int, Field(ge=1, le=100)]
PhraseShares = dict[PhraseWords, Annotated[float, Field(ge=0.0, le=1.0)]]


class Repetition(Section):
    """The repetition rules of Gopher (Rae et al. 2021, table A1), for plain documents of `min_words` and more.

    Each is the largest share that passes; null turns a rule off.
    """

    min_words: int = Field(default=50, ge=1)
    """Shorter documents are not checked: in a short poem, one refrain can be a third of the text."""
    duplicate_lines: float | None = Field(default=None, ge=0.0, le=1.0)
    """Largest share of repeated lines. Off by default: the paper's 0.3 drops plays, since speakers' names repeat."""
    duplicate_paragraphs: float | None = Field(default=0.3, ge=0.0, le=1.0)
    """Largest share of repeated paragraphs."""
    duplicate_line_characters: float | None = Field(default=0.2, ge=0.0, le=1.0)
    """Largest share of characters in repeated lines."""
    duplicate_paragraph_characters: float | None = Field(default=0.2, ge=0.0, le=1.0)
    """Largest share of characters in repeated paragraphs."""
    top_phrases: PhraseShares = {2: 0.2, 3: 0.18, 4: 0.16}
    """Largest share of characters in the most frequent phrase, by its length in words."""
    duplicate_phrases: PhraseShares = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    """Largest share of characters in repeated phrases, by their length in words."""


class Quality(Section):
    """The quality rules of Gopher (Rae et al. 2021, table A1), for plain documents; null turns a rule off."""

    min_words: int | None = Field(default=50, ge=1)
    """Fewest words."""
    max_words: int | None = Field(default=100_000, ge=1)
    """Most words."""
    min_mean_word_length: float | None = Field(default=3.0, ge=0.0)
    """Shortest mean word, in characters."""
    max_mean_word_length: float | None = Field(default=10.0, ge=0.0)
    """Longest mean word, in characters."""
    max_symbols: float | None = Field(default=0.1, ge=0.0)
    """Most hash signs and ellipses per word."""
    max_bullet_lines: float | None = Field(default=0.9, ge=0.0, le=1.0)
    """Largest share of lines that begin with a bullet."""
    max_ellipsis_lines: float | None = Field(default=0.3, ge=0.0, le=1.0)
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_words: float | None = Field(default=0.8, ge=0.0, le=1.0)
    """Smallest share of words with a letter."""
    min_stop_words: int | None = Field(default=2, ge=0)
    """How many of eight common English words (the, be, to, of, ...) a document must contain."""


class Clean(Section):
    min_characters: int = Field(default=2, ge=1)
    """Shortest document kept, in characters of content."""
    max_characters: int = Field(default=2_000_000, ge=1)
    """Longest document kept, in characters of content."""
    mojibake: bool = True
    """Whether ftfy repairs text that was decoded wrongly ("donâ€™t")."""
    boilerplate: Literal["keep", "drop"] = "keep"
    """Conversations in which a chat model talks about itself ("As an AI language model"). They are always counted."""
    personal_data: Literal["keep", "mask"] = "keep"
    """E-mail addresses, phone numbers and IP addresses. They are always counted."""
    languages: list[str] = []
    """Languages to keep, as ISO 639-1 codes ([en]). Empty keeps all. Needs pip install 'parakeet-lm[language]'."""
    repetition: Repetition | None = Repetition()
    """Gopher's rules that drop plain documents which repeat themselves. null turns off one rule, or all of them."""
    quality: Quality | None = None
    """Gopher's rules that drop plain documents which are hardly prose. null turns off one rule, or all of them."""


class Decontamination(Section):
    """Text that must not be trained on."""

    sets: list[EvaluationSet] = []
    """Evaluation sets to look for in every document. They come from the same kinds of places as sources."""
    words: int = Field(default=13, ge=5, le=50)
    """A document that shares this many consecutive words with a record of a set is dropped. A shorter question counts
    as a whole, together with its answer."""

    @model_validator(mode="after")
    def _no_training_settings(self) -> "Decontamination":
        for chosen in self.sets:
            # A recipe that Recipe.to_yaml wrote holds every setting, with its default.
            differing = chosen.model_dump(exclude_defaults=True).keys()
            for key in sorted(differing & TRAINING_KEYS):
                raise ValueError(f"evaluation set {chosen.name} has {key}: it is never trained on, so remove that key")
        return self


class Deduplication(Section):
    shingle_words: int = Field(default=5, ge=1, le=20)
    """Words in a shingle."""
    buckets: int = Field(default=14, ge=1, le=64)
    """Bands of the MinHash. More bands find more pairs."""
    hashes_per_bucket: int = Field(default=8, ge=1, le=32)
    """Hashes in a band. More hashes find only closer pairs; 14 × 8 finds pairs above a Jaccard index of about 0.72."""
    min_words: int = Field(default=20, ge=5)
    """Shorter documents are only checked for exact copies, since short templated dialogue is similar by design."""
    turns: bool = False
    """Whether to compare each question with its reply too. A pair that another conversation also holds is cut out."""
    held_out_fraction: float = Field(default=0.02, ge=0.0, le=0.5)
    """Share of documents that is held out for evaluation, chosen by hash. Synthetic text is split by question."""


class Slurm(Section):
    """How Slurm jobs are submitted. datatrove writes the script."""

    partition: str = Field(min_length=1)
    """Partition."""
    time: str = "24:00:00"
    """Longest run of a task."""
    qos: str = "normal"
    """Quality of service; empty leaves it out."""
    memory_gib: int = Field(default=4, ge=1)
    """Memory of a task."""
    environment: str = ""
    """Shell command that activates the environment in which Parakeet is installed; empty uses the present one."""


class Executor(Section):
    """Where the tasks of the data stages run, by datatrove's executors. The result is the same everywhere."""

    kind: Literal["local", "slurm", "ray"] = "local"
    """Processes on this machine, a Slurm array job, or Ray. Slurm and Ray need the assets in a shared folder."""
    workers: int = Field(default=0, ge=0, le=10_000)
    """Tasks at once. 0 means one per core (local), or all of them (slurm, ray)."""
    ray_address: str = ""
    """Address of a Ray cluster ("auto", "ray://…"). Empty starts Ray on this machine."""
    slurm: Slurm | None = None
    """How Slurm jobs are submitted; required for `kind: slurm`."""

    @model_validator(mode="after")
    def _complete(self) -> "Executor":
        if self.kind == "slurm" and self.slurm is None:
            raise ValueError("kind slurm needs executor.slurm with a partition")
        return self


LEAST_VOCABULARY = 308
"""The 256 bytes, and a space with each of 52 letters: all that `words` needs for a text of characters."""


class TokenizerSettings(Section):
    kind: Literal["bpe", "words", "cl100k_base"] = "bpe"
    """A byte-level BPE trained on this corpus; its most frequent words, with letters for all others (`words`, which
    lets a tiny model spell); or OpenAI's cl100k_base with Parakeet's four tokens."""
    vocabulary: int = Field(default=4096, ge=LEAST_VOCABULARY, le=65_536)
    """Largest number of tokens, not counting control tokens; of `bpe` and `words` only."""


class Shards(Section):
    loss_on: Literal["all", "assistant"] = "all"
    """Which tokens of a conversation are trained on. Plain documents are trained on whole."""
    shard_bytes: int = Field(default=384 << 20, ge=1 << 16, le=1 << 30)
    """Size of a shard, in bytes."""
    min_held_out_bytes: int = Field(default=1000, ge=0)
    """Least held-out text, in bytes. With less the build stops, since the evaluation would mean nothing."""


CANARY_SOURCE = "canaries"
"""The source of the planted documents in token shards."""

MOST_PLANTED = 1_000_000

Copies = Annotated[int, Field(ge=1, le=10_000)]


class Canaries(Section):
    """Made-up texts that are planted in the training text, to measure how many copies of a text a model memorises.

    Half of them are words of random letters, half read like notes.
    """

    seed: int = Field(default=1, ge=0)
    """Seed of the texts."""
    count: int = Field(default=10, ge=1, le=1_000)
    """Canaries of each of the two kinds for each number of copies."""
    copies: list[Copies] = Field(default=[1, 2, 4, 8, 16, 32, 64, 128], min_length=1, max_length=20)
    """How often they are planted: so many canaries once, as many others twice, and so on."""

    @field_validator("copies")
    @classmethod
    def _rising(cls, copies: list[int]) -> list[int]:
        if sorted(set(copies)) != copies:
            raise ValueError("the numbers of copies have to rise: [1, 2, 4, 8]")
        return copies

    @model_validator(mode="after")
    def _not_too_many(self) -> "Canaries":
        if self.documents > MOST_PLANTED:
            raise ValueError(
                f"these canaries would be {self.documents:,} documents, more than {MOST_PLANTED:,}: lower count or "
                "copies"
            )
        return self

    @property
    def documents(self) -> int:
        """How many documents are planted, copies counted."""
        return 2 * self.count * sum(self.copies)


class LaterSequences(Section):
    """Sequences of another length towards the end of training."""

    sequence_length: int = Field(ge=16, le=131_072)
    """Tokens in one sequence of this phase; at most the model's context."""
    share: float = Field(gt=0.0, lt=1.0)
    """Share of all training tokens that this phase takes."""


class Replay(Section):
    """Train on what is new, with a share of the text that the start was trained on. `parakeet retrain` writes it."""

    share: float = Field(ge=0.0, le=0.95)
    """Share of the tokens that are old text, if there is as much; 0 takes none. Which of it is chosen by hash."""
    of: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Content of the token shards that the start was trained on. Documents that they hold are old, all others new."""
    passes: int = Field(default=1, ge=1, le=100)
    """How often the plan is trained on. training.tokens is only an estimate of that."""


class Packing(Section):
    sequence_length: int = Field(default=256, ge=16, le=131_072)
    """Tokens in one training sequence; at most the model's context."""
    then: list[LaterSequences] = []
    """Later phases of training with other sequence lengths, in order; for example 8,192 after 1,024."""
    seed: int = Field(default=1, ge=0)
    """Seed of the order of sequences, together with the epoch."""
    replay: Replay | None = None
    """New text with a share of the old, for a model that continues from an earlier one. null trains on all text."""

    @model_validator(mode="after")
    def _shares(self) -> "Packing":
        if sum(phase.share for phase in self.then) >= 1.0:
            raise ValueError("the shares of packing.then leave nothing for sequences of packing.sequence_length")
        return self

    @property
    def lengths(self) -> list[int]:
        """Every sequence length that is trained at, in the order of training, repeats included."""
        return [self.sequence_length, *(phase.sequence_length for phase in self.then)]


class ModelSettings(Section):
    layers: int = Field(ge=1, le=256)
    """Transformer blocks."""
    heads: int = Field(ge=1, le=256)
    """Attention heads."""
    width: int = Field(ge=8, le=16_384)
    """Width of the residual stream; a multiple of the heads."""
    context: int = Field(ge=16, le=131_072)
    """Longest sequence that the model is meant for, in tokens."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the residual branches while training."""
    softmax_one: bool = False
    """Softmax off by one: attention divides by 1 + Σ exp, so that a head may attend to nothing. No other program reads
    such a model."""
    share_keys_values: bool = True
    """Whether each pair of neighbouring layers shares one key/value projection, as the original does. false gives each
    layer its own."""

    @model_validator(mode="after")
    def _whole_heads(self) -> "ModelSettings":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class LaterBatches(Section):
    """Another batch size towards the end of training."""

    batch_tokens: int = Field(ge=16)
    """Tokens in one optimizer step of this phase; a multiple of every sequence length."""
    share: float = Field(gt=0.0, lt=1.0)
    """Share of all training tokens that this phase takes."""


ORIGINAL_MODEL, LATEST = "original_model", "latest"
"""Words for `training.start`, which also takes a path or a model's name."""


class Training(Section):
    tokens: int = Field(ge=1)
    """Tokens to train on in total, counting repeats."""
    batch_tokens: int = Field(ge=16)
    """Tokens in one optimizer step; a multiple of the sequence length."""
    then: list[LaterBatches] = []
    """Later phases of training with other batch sizes, in order; for example 1,024 after 512."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Tokens in one forward pass; a multiple of the sequence length. Gradients are accumulated up to batch_tokens. 0
    takes as many as fit the device."""
    learning_rate: float = Field(gt=0, le=1)
    """Peak learning rate."""
    embedding_rate: float = Field(default=1.0, gt=0.0, le=100.0)
    """The embedding's learning rate, as a multiple of learning_rate."""
    norm_rate: float = Field(default=1.0, gt=0.0, le=100.0)
    """The norms' learning rate, as a multiple of learning_rate."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps over which the learning rate rises from 0."""
    decay_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of all steps, at the end, over which the learning rate falls to 0."""
    decay: str = "linear"
    """How it falls: linear, or sqrt (1 − √progress, fast at first)."""
    start: str | None = Field(default=None, min_length=1)
    """Weights to begin with instead of random ones: original_model (as imported); latest (the promoted release of this
    recipe's name, else the one that `parakeet chat` opens); a model's name, as `parakeet models` lists it; or the
    folder of a release, an imported model or a run's checkpoint, relative to the recipe file. Its shape has to be the
    recipe's, and its tokenizer is used. none or null begins at random."""
    optimizer: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    """AdamW; bitsandbytes' AdamW with 8-bit state, in a quarter of the memory; or Muon for the matrices of the blocks,
    with AdamW for the rest."""
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Muon's momentum; the other optimizers do not read it."""
    momentum_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision in which Muon keeps its momentum; bf16 halves its memory. The other optimizers do not read it."""
    embedding_deviation: float = Field(default=0.02, gt=0.0, le=1.0)
    """Standard deviation of the initial embedding."""
    weight_decay: float = Field(default=0.03, ge=0.0)
    """Weight decay; on matrices only."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's decay of the first moment."""
    beta2: float = Field(default=0.98, ge=0.0, lt=1.0)
    """AdamW's decay of the second moment."""
    gradient_clip: float = Field(default=1.0, gt=0.0)
    """Largest norm of the gradient."""
    z_loss: float = Field(default=0.0, ge=0.0, le=1.0)
    """Weight of log(Z)² in the loss, which keeps logits from drifting. 1e-4 is usual; 0 turns it off."""
    goldfish: int = Field(default=0, ge=0)
    """Leave one in so many targets out of the loss, against memorisation (goldfish loss). Which ones is decided by the
    13 tokens before each, so that copies of a passage lose the same. At least 2; 0 learns every target."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Precision of matrix products, forward and backward. The weights stay fp32. auto measures both when a run begins,
    and takes bf16 where it is clearly faster; the run keeps it on every machine."""
    residual: Literal["fp32", "bf16"] = "fp32"
    """Precision of the residual stream between blocks. bf16 halves its memory."""
    attention: Literal["auto", "reference", "fused", "flex"] = "auto"
    """Attention backend. All of them compute the same function."""
    activation_checkpointing: Literal["auto", "none", "mlp", "block"] = "auto"
    """What the backward pass recomputes instead of storing it: nothing, the MLPs, or whole blocks. auto recomputes the
    least that fits the device."""
    compile: bool = False
    """Whether to use torch.compile on the blocks. For CUDA: on a CPU it made a step five times slower."""
    processes: int = Field(default=1, ge=0, le=64)
    """Processes that share each step, one per GPU. 0 takes every GPU."""
    seed: int = Field(default=1, ge=0)
    """Seed of the initial weights and of dropout."""
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between two checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest checkpoints are kept."""
    keep_every: int = Field(default=0, ge=0)
    """Also keep every checkpoint whose step is a multiple of this; 0 keeps none."""
    validation_tokens: int = Field(default=65_536, ge=0)
    """Held-out tokens to measure the loss on at each checkpoint; 0 measures none."""
    tensorboard: bool = False
    """Whether to write the metrics for TensorBoard too. Needs pip install 'parakeet-lm[tensorboard]'."""
    threads: int = Field(default=0, ge=0)
    """CPU threads; 0 leaves the choice to torch."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto, cpu, cuda or cuda:N. auto uses CUDA if there is a device."""

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if sum(later.share for later in self.then) >= 1.0:
            raise ValueError("the shares of training.then leave nothing for batches of training.batch_tokens")
        return self

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Tokens of a step by the key that sets them, in the order of training."""
        later = {f"training.then[{number}].batch_tokens": later.batch_tokens for number, later in enumerate(self.then)}
        return {"training.batch_tokens": self.batch_tokens, **later}

    @field_validator("start", mode="before")
    @classmethod
    def _none(cls, start: Any) -> Any:
        return None if start == "none" else start

    @field_validator("goldfish")
    @classmethod
    def _some_targets(cls, k: int) -> int:
        if k == 1:
            raise ValueError("1 would leave every target out of the loss; the least is 2, and 0 turns it off")
        return k

    @field_validator("decay")
    @classmethod
    def _known_decay(cls, name: str) -> str:
        if name not in DECAYS:
            raise ValueError(f"the decays are {', '.join(DECAYS)}")
        return name


class Retraining(Section):
    """How `parakeet retrain` and the schedule `weekly_retraining` train the promoted release on what is new."""

    start_from: Literal["stable", "scratch"] = "stable"
    """`stable` continues from the last checkpoint before the learning rate fell, of the run that made the release; from
    the release itself if the retraining is too short to make up for the decay that this leaves out, or if that
    checkpoint is early or gone. `scratch` trains the whole recipe on all text, from new weights."""
    replay: float = Field(default=0.3, ge=0.0, le=0.95)
    """Share of the training tokens that are old text, against forgetting. Ibrahim et al. (2024) needed 5% where new
    text is like the old, and 25 to 50% where it differs."""
    passes: int = Field(default=2, ge=1, le=100)
    """How often the new text is seen. Up to four passes are worth nearly as much as new text (Muennighoff et al.
    2023)."""
    least_new_share: float = Field(default=0.05, ge=0.0)
    """Least new text, as a share of the tokens that the release was trained on. By Hoffmann et al. (2022), 5% more
    text lowers the reducible loss by 1.4%: less is hard to tell from noise."""
    least_new_tokens: int = Field(default=10_000, ge=0)
    """Least new text in tokens. Both have to be reached."""
    warmup_fraction: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of the steps over which the learning rate rises from 0, since the optimizer starts without its state."""
    check_sources_days: int = Field(default=7, ge=1, le=3650)
    """Days until the schedule `source_looks` looks at the sources again that are downloaded."""


class Benchmarks(Section):
    """Standard benchmarks to score. Their text is never trained on."""

    data: str = Field(min_length=1)
    """Folder with the data files of the tasks; relative to the recipe file. docs/evaluation.md says how they are
    named."""
    tasks: Literal["standard"] | list[str] = "standard"
    """Tasks to score, or all of them."""
    items: int | None = Field(default=None, ge=1)
    """Items to score of each task, spread over its file. null scores all."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _known_tasks(cls, tasks: Any) -> Any:
        # Before the types are checked: of a union, pydantic reports each alternative.
        if isinstance(tasks, list):
            unknown = [task for task in tasks if not isinstance(task, str) or task not in FILES]
            twice = [task for number, task in enumerate(tasks) if task in tasks[:number]]
            if unknown or not tasks:
                what = f"there is no task {unknown[0]}" if unknown else "no task is named"
                raise ValueError(f"{what}; the tasks are {', '.join(FILES)}, and {STANDARD} for all")
            if twice:
                raise ValueError(f"{twice[0]} is named twice")
        elif tasks != STANDARD:
            one = f", such as [{tasks}]," if isinstance(tasks, str) and tasks in FILES else ""
            raise ValueError(f"give a list of tasks{one} or {STANDARD}; the tasks are {', '.join(FILES)}")
        return tasks


class Evaluation(Section):
    questions_per_task: int = Field(default=200, ge=1, le=5000)
    """Held-out questions to ask in each synthetic task."""
    max_bytes: int = Field(default=400_000, ge=1000)
    """Most held-out text to measure per source, in bytes."""
    position_tokens: int = Field(default=0, ge=0, le=1 << 20)
    """Bits per byte are measured by position, up to this many tokens; 0 means the model's context."""
    prompts: list[str] = [
        "Who are you?",
        "Hello!",
        "What is the capital of France?",
        "Count from 3 to 8.",
        "Tell me a story about a fox.",
    ]
    """Prompts whose greedy replies are shown in the report."""
    chat_prompts: bool = False
    """With a synthetic source: whether to measure the share of sensible replies to 200 carelessly typed prompts."""
    benchmarks: Benchmarks | None = None
    """Standard benchmarks to score, by lm-evaluation-harness; null scores none. Needs pip install
    'parakeet-lm[eval]'."""
    trace_index: bool = True
    """Whether to index the training text for `parakeet trace` and measures of memorisation: 7 bytes of disk a token."""


class Gates(Section):
    """What a release must show before it replaces the promoted one of its recipe.

    docs/gates.md explains each gate. A bound that is null refuses nothing.
    """

    worse_by: float = Field(default=0.01, ge=0.0, le=10.0)
    """Share of the bits per byte of the promoted release by which a new one may be worse for certain. Two trainings
    that differ in nothing but their seed differ by about 0.004. Several promotions together may lose twice as much."""
    uncertainty: float = Field(default=0.05, gt=0.0, le=10.0)
    """Share of the bits per byte of the promoted release by which a new one could still be worse than it was measured,
    by the 95 % interval. Beyond that, too little text is held out to tell. Two equally good models were told apart to
    0.01 on 175 documents."""
    documents: int = Field(default=20, ge=5)
    """Fewest held-out documents to compare two releases on. Of 100 intervals over 5 documents 82 held the true value,
    over 20 documents 93."""
    yardstick_margin: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share by which the first release must need fewer bits per byte than the better of the unigram model and `xz -9`.
    A model of a few steps has only learnt how frequent each token is, as the unigram model has."""
    figures: bool = True
    """Whether a fall of a share (exact or sensible replies, minimal pairs, probes, benchmarks) by more than chance
    explains refuses a release. Of equally good releases it refuses at most 5 %, all shares together."""
    repetition: float | None = Field(default=0.5, ge=0.0, le=1.0)
    """Largest share of repeated 4-grams in replies at temperature 0.8. English repeats about a hundredth of its own; a
    model that is stuck in loops repeats nearly all."""
    empty: float | None = Field(default=0.5, ge=0.0, le=1.0)
    """Largest share of replies at temperature 0.8 without a visible character."""
    memorisation: float | None = Field(default=0.25, ge=0.0, le=1.0)
    """Largest difference between the shares of training passages and of held-out passages that the model continues
    word by word. A small text that is read many times is known by heart: null allows that."""


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
    """The checkpoint that the author of the original model published, and where to get it."""

    file_name: str = Field(
        default="parakeet8k-c8192-d1152-fexp4_v100288_h18_l18-alibi+gqa2.pth",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,199}\.pth$",
    )
    """Its name in `assets/models/`. Heads and context are read from the name."""
    drive_id: str | None = Field(default="14GG7AhKQviMcYDgQcnp9P9YAXNYzV6gf", pattern=r"^[A-Za-z0-9_-]{10,100}$")
    """Google Drive id, tried after the mirrors; null skips it."""
    mirrors: list[str] = []
    """HTTP(S) addresses or local paths, tried in this order."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Hash that the file must have, if it is known."""
    n_bytes: int | None = Field(default=None, ge=1)
    """Size that the file must have in bytes, if it is known."""


class Notify(Section):
    """Who is told when a model was promoted or refused, when a run of Dagster failed, and when the disk is nearly full.

    Only the recipe file itself may set it, not one that it extends. It is part of no fingerprint, and of no record of
    a release or a run.
    """

    url: str | None = Field(default=None, repr=False)
    """Address (https://…) that gets each notice as JSON by POST: event, text, recipe, release, facts, host, time. Only
    its host is ever printed."""
    command: str | None = Field(default=None, min_length=1)
    """Shell command that gets each notice: the text on standard input and in $PARAKEET_TEXT, the event in
    $PARAKEET_EVENT. For example: notify-send Parakeet "$PARAKEET_TEXT"."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            known = False
        if not known or not url.isascii() or any(sign.isspace() or not sign.isprintable() for sign in url):
            raise ValueError("the address has to begin with https:// or http:// and a host, without spaces")
        return url

    @field_validator("command")
    @classmethod
    def _is_command(cls, command: str | None) -> str | None:
        if command is not None and (not command.strip() or "\0" in command):
            raise ValueError("the command is empty, or has a zero byte")
        return command

    @model_validator(mode="after")
    def _somebody(self) -> "Notify":
        if self.url is None and self.command is None:
            raise ValueError("set url or command, or leave notify out")
        return self


RECIPE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Recipe(Section):
    name: str = Field(pattern=RECIPE_NAME)
    """Name of the recipe and of the model it makes; letters, digits, dot, dash, underscore."""
    description: str = ""
    """What the recipe makes, in one line."""
    sources: list[Source] = Field(min_length=1)
    """Where the text comes from."""
    limit: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of every source to use; 0.001 makes a trial of a large recipe."""
    clean: Clean = Clean()
    """Filters on single documents."""
    decontamination: Decontamination = Decontamination()
    """Evaluation sets that must not be trained on."""
    deduplication: Deduplication = Deduplication()
    """How copies are found, and the share that is held out."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """Text to ids."""
    shards: Shards = Shards()
    """Token files."""
    canaries: Canaries | None = None
    """Made-up texts that are planted in the training text to measure memorisation. A model that is trained with them
    can repeat them; its cards say so. null plants none."""
    packing: Packing = Packing()
    """How documents are packed into sequences."""
    model: ModelSettings
    """Shape of the transformer."""
    training: Training
    """How the model learns."""
    retraining: Retraining = Retraining()
    """How the promoted release is trained on what is new."""
    evaluation: Evaluation = Evaluation()
    """What is measured."""
    gates: Gates | None = Gates()
    """What a release must show before `parakeet chat` opens it. null promotes every release."""
    executor: Executor = Executor()
    """Where the data stages run. The result does not depend on it."""
    generation: Generation = Generation()
    """Defaults of the released model's chat."""
    original: OriginalCheckpoint = OriginalCheckpoint()
    """The published checkpoint. Only `--select original_model` uses it."""
    notify: Notify | None = Field(default=None, exclude=True)
    """Who is told of what happens while nobody looks; null tells nobody."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]}: give each its own name")
        if self.canaries is not None and CANARY_SOURCE in names:
            raise ValueError(f"a source is called {CANARY_SOURCE}, the name of the canaries: give it another one")
        if self.canaries is not None and not self.evaluation.trace_index:
            raise ValueError(
                "canaries are measured with the trace index, and evaluation.trace_index is false: set it to true, or "
                "canaries to null"
            )
        sets = [chosen.name for chosen in self.decontamination.sets]
        for name in sets:
            if sets.count(name) > 1 or name in names:
                raise ValueError(f"evaluation set {name} has the name of another one or of a source: give it its own")
        benchmarks = self.evaluation.benchmarks
        for task in tasks_of(benchmarks) if benchmarks else ():
            if (name := set_name(task)) in (*names, *sets):
                raise ValueError(f"{name} is the evaluation set of evaluation.benchmarks: give your own another name")
        without = [source.name for source in self.sources if source.weight is None]
        if 0 < len(without) < len(self.sources):
            raise ValueError(f"source {without[0]} has no weight, but others have: give every source a weight, or none")
        for index, sequence_length in enumerate(self.packing.lengths):
            key = f"packing.then[{index - 1}].sequence_length" if index else "packing.sequence_length"
            if sequence_length > self.model.context:
                raise ValueError(f"{key} {sequence_length} is beyond model.context {self.model.context}")
            for name, batch_tokens in self.training.batch_sizes.items():
                if batch_tokens % sequence_length:
                    raise ValueError(f"{name} {batch_tokens} is not a multiple of {key} {sequence_length}")
            if self.training.micro_batch_tokens % sequence_length:
                raise ValueError(
                    f"training.micro_batch_tokens {self.training.micro_batch_tokens} is not a multiple of {key} "
                    f"{sequence_length}; 0 takes what fits the device"
                )
        for name, batch_tokens in self.training.batch_sizes.items():
            if self.training.micro_batch_tokens > batch_tokens:
                raise ValueError(
                    f"training.micro_batch_tokens {self.training.micro_batch_tokens} is beyond {name} {batch_tokens}; "
                    "0 takes what fits the device"
                )
        if self.training.attention == "flex" and self.training.device == "cpu":
            raise ValueError("training.attention flex needs a CUDA device, and training.device is cpu")
        return self

    def __eq__(self, other: object) -> bool:
        """Whether both build the same, whoever is told of it: no record of a recipe has `notify`."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    def part(self, *sections: str) -> dict[str, Any]:
        """The named sections as plain JSON values: what a stage reads and its fingerprint covers."""
        return {name: self.model_dump(mode="json", include={name})[name] for name in sections}

    def all_values(self) -> dict[str, Any]:
        """Every key, for a recipe that is made from this one.

        `model_dump` leaves `notify` out, so that no record of a build has the address, which is often a password.
        """
        return {**self.model_dump(), "notify": None, **self._notify_values()}

    def to_yaml(self, with_notify: bool = False) -> str:
        """The recipe as a file. `with_notify` is for the recipe in use alone: see `all_values`."""
        values = self.model_dump(mode="json") | (self._notify_values() if with_notify else {})
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)

    def _notify_values(self) -> dict[str, Any]:
        return {"notify": self.notify.model_dump(exclude_none=True)} if self.notify is not None else {}
