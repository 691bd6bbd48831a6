from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Session(_message.Message):
    __slots__ = ("run_id", "client_id", "token")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    client_id: str
    token: str
    def __init__(self, run_id: _Optional[str] = ..., client_id: _Optional[str] = ..., token: _Optional[str] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("architecture", "tasks")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    architecture: ModelArchitecture
    tasks: _containers.RepeatedCompositeFieldContainer[TaskDefinition]
    def __init__(self, architecture: _Optional[_Union[ModelArchitecture, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[TaskDefinition, _Mapping]]] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("client_id", "tasks", "examples", "capabilities", "targets", "headers", "inputs")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    tasks: _containers.RepeatedCompositeFieldContainer[TaskDefinition]
    examples: _containers.RepeatedCompositeFieldContainer[TaskExamples]
    capabilities: Capabilities
    targets: _containers.RepeatedCompositeFieldContainer[TargetSums]
    headers: _containers.RepeatedCompositeFieldContainer[TaskHeader]
    inputs: _containers.RepeatedCompositeFieldContainer[InputSums]
    def __init__(self, client_id: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[TaskDefinition, _Mapping]]] = ..., examples: _Optional[_Iterable[_Union[TaskExamples, _Mapping]]] = ..., capabilities: _Optional[_Union[Capabilities, _Mapping]] = ..., targets: _Optional[_Iterable[_Union[TargetSums, _Mapping]]] = ..., headers: _Optional[_Iterable[_Union[TaskHeader, _Mapping]]] = ..., inputs: _Optional[_Iterable[_Union[InputSums, _Mapping]]] = ...) -> None: ...

class Capabilities(_message.Message):
    __slots__ = ("codecs", "data", "trains", "layers", "lacks")
    CODECS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TRAINS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    codecs: _containers.RepeatedScalarFieldContainer[str]
    data: str
    trains: str
    layers: int
    lacks: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, codecs: _Optional[_Iterable[str]] = ..., data: _Optional[str] = ..., trains: _Optional[str] = ..., layers: _Optional[int] = ..., lacks: _Optional[_Iterable[str]] = ...) -> None: ...

class TargetSums(_message.Message):
    __slots__ = ("task", "mean", "squares", "counts")
    TASK_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    task: str
    mean: float
    squares: float
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task: _Optional[str] = ..., mean: _Optional[float] = ..., squares: _Optional[float] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class InputSums(_message.Message):
    __slots__ = ("task", "counts", "means", "squares")
    TASK_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    task: str
    counts: _containers.RepeatedScalarFieldContainer[int]
    means: _containers.RepeatedScalarFieldContainer[float]
    squares: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, task: _Optional[str] = ..., counts: _Optional[_Iterable[int]] = ..., means: _Optional[_Iterable[float]] = ..., squares: _Optional[_Iterable[float]] = ...) -> None: ...

class TaskHeader(_message.Message):
    __slots__ = ("task", "count", "digest", "names", "shape")
    TASK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    task: str
    count: int
    digest: str
    names: _containers.RepeatedScalarFieldContainer[str]
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, task: _Optional[str] = ..., count: _Optional[int] = ..., digest: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class TaskDefinition(_message.Message):
    __slots__ = ("name", "type", "labels", "pair", "metrics", "weight", "auxiliary", "balanced", "class_weights")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PAIR_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_FIELD_NUMBER: _ClassVar[int]
    BALANCED_FIELD_NUMBER: _ClassVar[int]
    CLASS_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    pair: bool
    metrics: _containers.RepeatedScalarFieldContainer[str]
    weight: float
    auxiliary: bool
    balanced: bool
    class_weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., pair: bool = ..., metrics: _Optional[_Iterable[str]] = ..., weight: _Optional[float] = ..., auxiliary: bool = ..., balanced: bool = ..., class_weights: _Optional[_Iterable[float]] = ...) -> None: ...

class TaskExamples(_message.Message):
    __slots__ = ("task", "examples", "validation")
    TASK_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    task: str
    examples: int
    validation: int
    def __init__(self, task: _Optional[str] = ..., examples: _Optional[int] = ..., validation: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session", "run_name", "architecture", "tasks", "rules", "schema_digests", "poll_seconds", "heartbeat_seconds")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    POLL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    session: Session
    run_name: str
    architecture: ModelArchitecture
    tasks: _containers.RepeatedCompositeFieldContainer[TaskDefinition]
    rules: _containers.RepeatedCompositeFieldContainer[SharingRule]
    schema_digests: _containers.RepeatedCompositeFieldContainer[SchemaDigest]
    poll_seconds: float
    heartbeat_seconds: float
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., run_name: _Optional[str] = ..., architecture: _Optional[_Union[ModelArchitecture, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[TaskDefinition, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[SharingRule, _Mapping]]] = ..., schema_digests: _Optional[_Iterable[_Union[SchemaDigest, _Mapping]]] = ..., poll_seconds: _Optional[float] = ..., heartbeat_seconds: _Optional[float] = ...) -> None: ...

class ModelArchitecture(_message.Message):
    __slots__ = ("encoder_config", "pair_mode", "max_length", "tokenizer_digest", "tokenizer_bytes", "exact_heads")
    ENCODER_CONFIG_FIELD_NUMBER: _ClassVar[int]
    PAIR_MODE_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXACT_HEADS_FIELD_NUMBER: _ClassVar[int]
    encoder_config: str
    pair_mode: str
    max_length: int
    tokenizer_digest: str
    tokenizer_bytes: int
    exact_heads: bool
    def __init__(self, encoder_config: _Optional[str] = ..., pair_mode: _Optional[str] = ..., max_length: _Optional[int] = ..., tokenizer_digest: _Optional[str] = ..., tokenizer_bytes: _Optional[int] = ..., exact_heads: bool = ...) -> None: ...

class SharingRule(_message.Message):
    __slots__ = ("match", "scope")
    MATCH_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    match: str
    scope: str
    def __init__(self, match: _Optional[str] = ..., scope: _Optional[str] = ...) -> None: ...

class SchemaDigest(_message.Message):
    __slots__ = ("scope", "digest")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    scope: str
    digest: str
    def __init__(self, scope: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class PollRequest(_message.Message):
    __slots__ = ("session", "pending_order", "update", "reply")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PENDING_ORDER_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    session: Session
    pending_order: str
    update: Update
    reply: Reply
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., pending_order: _Optional[str] = ..., update: _Optional[_Union[Update, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("header", "payload")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header: UpdateHeader
    payload: bytes
    def __init__(self, header: _Optional[_Union[UpdateHeader, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("order_id", "results", "seconds", "content")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    seconds: float
    content: Extension
    def __init__(self, order_id: _Optional[str] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., seconds: _Optional[float] = ..., content: _Optional[_Union[Extension, _Mapping]] = ...) -> None: ...

class PendingAnswer(_message.Message):
    __slots__ = ("update", "reply")
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    update: UpdateHeader
    reply: Reply
    def __init__(self, update: _Optional[_Union[UpdateHeader, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ...) -> None: ...

class PollReply(_message.Message):
    __slots__ = ("kind", "update_state", "waiting_for", "order")
    KIND_FIELD_NUMBER: _ClassVar[int]
    UPDATE_STATE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    kind: str
    update_state: str
    waiting_for: str
    order: Order
    def __init__(self, kind: _Optional[str] = ..., update_state: _Optional[str] = ..., waiting_for: _Optional[str] = ..., order: _Optional[_Union[Order, _Mapping]] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("order_id", "round", "version", "scopes", "seconds_left", "tasks", "units", "inline", "train", "evaluate", "extension", "solve", "scales")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    EXTENSION_FIELD_NUMBER: _ClassVar[int]
    SOLVE_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    round: int
    version: int
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeVersion]
    seconds_left: float
    tasks: _containers.RepeatedScalarFieldContainer[str]
    units: _containers.RepeatedCompositeFieldContainer[TargetUnits]
    inline: _containers.RepeatedCompositeFieldContainer[ScopeValues]
    train: Train
    evaluate: Evaluate
    extension: Extension
    solve: Solve
    scales: _containers.RepeatedCompositeFieldContainer[InputScale]
    def __init__(self, order_id: _Optional[str] = ..., round: _Optional[int] = ..., version: _Optional[int] = ..., scopes: _Optional[_Iterable[_Union[ScopeVersion, _Mapping]]] = ..., seconds_left: _Optional[float] = ..., tasks: _Optional[_Iterable[str]] = ..., units: _Optional[_Iterable[_Union[TargetUnits, _Mapping]]] = ..., inline: _Optional[_Iterable[_Union[ScopeValues, _Mapping]]] = ..., train: _Optional[_Union[Train, _Mapping]] = ..., evaluate: _Optional[_Union[Evaluate, _Mapping]] = ..., extension: _Optional[_Union[Extension, _Mapping]] = ..., solve: _Optional[_Union[Solve, _Mapping]] = ..., scales: _Optional[_Iterable[_Union[InputScale, _Mapping]]] = ...) -> None: ...

class InputScale(_message.Message):
    __slots__ = ("task", "means", "scales")
    TASK_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    SCALES_FIELD_NUMBER: _ClassVar[int]
    task: str
    means: _containers.RepeatedScalarFieldContainer[float]
    scales: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, task: _Optional[str] = ..., means: _Optional[_Iterable[float]] = ..., scales: _Optional[_Iterable[float]] = ...) -> None: ...

class Extension(_message.Message):
    __slots__ = ("name", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    data: bytes
    def __init__(self, name: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Train(_message.Message):
    __slots__ = ("settings", "seed", "codec", "proximal_terms", "isolated_tasks", "controls", "starts", "fixed", "noise", "sums")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PROXIMAL_TERMS_FIELD_NUMBER: _ClassVar[int]
    ISOLATED_TASKS_FIELD_NUMBER: _ClassVar[int]
    CONTROLS_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    FIXED_FIELD_NUMBER: _ClassVar[int]
    NOISE_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    settings: TrainingSettings
    seed: int
    codec: str
    proximal_terms: _containers.RepeatedCompositeFieldContainer[ProximalTerm]
    isolated_tasks: _containers.RepeatedScalarFieldContainer[str]
    controls: _containers.RepeatedCompositeFieldContainer[ControlShare]
    starts: _containers.RepeatedCompositeFieldContainer[ScopeVersion]
    fixed: _containers.RepeatedScalarFieldContainer[str]
    noise: NoisePromise
    sums: SumOrder
    def __init__(self, settings: _Optional[_Union[TrainingSettings, _Mapping]] = ..., seed: _Optional[int] = ..., codec: _Optional[str] = ..., proximal_terms: _Optional[_Iterable[_Union[ProximalTerm, _Mapping]]] = ..., isolated_tasks: _Optional[_Iterable[str]] = ..., controls: _Optional[_Iterable[_Union[ControlShare, _Mapping]]] = ..., starts: _Optional[_Iterable[_Union[ScopeVersion, _Mapping]]] = ..., fixed: _Optional[_Iterable[str]] = ..., noise: _Optional[_Union[NoisePromise, _Mapping]] = ..., sums: _Optional[_Union[SumOrder, _Mapping]] = ...) -> None: ...

class NoisePromise(_message.Message):
    __slots__ = ("noise_multiplier", "epsilon", "delta", "clients")
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    noise_multiplier: float
    epsilon: float
    delta: float
    clients: int
    def __init__(self, noise_multiplier: _Optional[float] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., clients: _Optional[int] = ...) -> None: ...

class Solve(_message.Message):
    __slots__ = ("settings", "seed", "codec", "problems")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    settings: TrainingSettings
    seed: int
    codec: str
    problems: _containers.RepeatedCompositeFieldContainer[DualProblem]
    def __init__(self, settings: _Optional[_Union[TrainingSettings, _Mapping]] = ..., seed: _Optional[int] = ..., codec: _Optional[str] = ..., problems: _Optional[_Iterable[_Union[DualProblem, _Mapping]]] = ...) -> None: ...

class DualProblem(_message.Message):
    __slots__ = ("task", "scope", "rows", "variance", "coupling", "solved")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    COUPLING_FIELD_NUMBER: _ClassVar[int]
    SOLVED_FIELD_NUMBER: _ClassVar[int]
    task: str
    scope: str
    rows: int
    variance: float
    coupling: float
    solved: int
    def __init__(self, task: _Optional[str] = ..., scope: _Optional[str] = ..., rows: _Optional[int] = ..., variance: _Optional[float] = ..., coupling: _Optional[float] = ..., solved: _Optional[int] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("candidates", "rows", "batch_size", "seed")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    rows: str
    batch_size: int
    seed: int
    def __init__(self, candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., rows: _Optional[str] = ..., batch_size: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("scopes",)
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeVersion]
    def __init__(self, scopes: _Optional[_Iterable[_Union[ScopeVersion, _Mapping]]] = ...) -> None: ...

class ProbeLosses(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskLosses]
    def __init__(self, tasks: _Optional[_Iterable[_Union[TaskLosses, _Mapping]]] = ...) -> None: ...

class TaskLosses(_message.Message):
    __slots__ = ("task", "rows", "losses", "gains", "squares")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LOSSES_FIELD_NUMBER: _ClassVar[int]
    GAINS_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    task: str
    rows: int
    losses: _containers.RepeatedScalarFieldContainer[float]
    gains: _containers.RepeatedScalarFieldContainer[float]
    squares: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, task: _Optional[str] = ..., rows: _Optional[int] = ..., losses: _Optional[_Iterable[float]] = ..., gains: _Optional[_Iterable[float]] = ..., squares: _Optional[_Iterable[float]] = ...) -> None: ...

class Evaluate(_message.Message):
    __slots__ = ("settings", "seed", "problems", "sums")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    settings: TrainingSettings
    seed: int
    problems: _containers.RepeatedCompositeFieldContainer[DualProblem]
    sums: SumOrder
    def __init__(self, settings: _Optional[_Union[TrainingSettings, _Mapping]] = ..., seed: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[DualProblem, _Mapping]]] = ..., sums: _Optional[_Union[SumOrder, _Mapping]] = ...) -> None: ...

class TargetUnits(_message.Message):
    __slots__ = ("task", "mean", "scale", "weights")
    TASK_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    task: str
    mean: float
    scale: float
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, task: _Optional[str] = ..., mean: _Optional[float] = ..., scale: _Optional[float] = ..., weights: _Optional[_Iterable[float]] = ...) -> None: ...

class ProximalTerm(_message.Message):
    __slots__ = ("scope", "mu", "version")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    MU_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    scope: str
    mu: float
    version: int
    def __init__(self, scope: _Optional[str] = ..., mu: _Optional[float] = ..., version: _Optional[int] = ...) -> None: ...

class ControlShare(_message.Message):
    __slots__ = ("scope", "clients")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    scope: str
    clients: int
    def __init__(self, scope: _Optional[str] = ..., clients: _Optional[int] = ...) -> None: ...

class ScopeValues(_message.Message):
    __slots__ = ("scope", "data")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    scope: str
    data: bytes
    def __init__(self, scope: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ScopeVersion(_message.Message):
    __slots__ = ("scope", "version")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    scope: str
    version: int
    def __init__(self, scope: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class TrainingSettings(_message.Message):
    __slots__ = ("local_epochs", "batch_size", "learning_rate", "weight_decay", "max_grad_norm", "eval_batch_size", "procedure", "balance", "optimizer", "proximal_step", "frozen", "own_model", "head_learning_rate", "keeps_scores", "row_noise")
    LOCAL_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    MAX_GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    EVAL_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PROCEDURE_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    PROXIMAL_STEP_FIELD_NUMBER: _ClassVar[int]
    FROZEN_FIELD_NUMBER: _ClassVar[int]
    OWN_MODEL_FIELD_NUMBER: _ClassVar[int]
    HEAD_LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    KEEPS_SCORES_FIELD_NUMBER: _ClassVar[int]
    ROW_NOISE_FIELD_NUMBER: _ClassVar[int]
    local_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    max_grad_norm: float
    eval_batch_size: int
    procedure: Choice
    balance: Choice
    optimizer: Choice
    proximal_step: str
    frozen: str
    own_model: Choice
    head_learning_rate: float
    keeps_scores: bool
    row_noise: RowNoise
    def __init__(self, local_epochs: _Optional[int] = ..., batch_size: _Optional[int] = ..., learning_rate: _Optional[float] = ..., weight_decay: _Optional[float] = ..., max_grad_norm: _Optional[float] = ..., eval_batch_size: _Optional[int] = ..., procedure: _Optional[_Union[Choice, _Mapping]] = ..., balance: _Optional[_Union[Choice, _Mapping]] = ..., optimizer: _Optional[_Union[Choice, _Mapping]] = ..., proximal_step: _Optional[str] = ..., frozen: _Optional[str] = ..., own_model: _Optional[_Union[Choice, _Mapping]] = ..., head_learning_rate: _Optional[float] = ..., keeps_scores: bool = ..., row_noise: _Optional[_Union[RowNoise, _Mapping]] = ...) -> None: ...

class RowNoise(_message.Message):
    __slots__ = ("clip", "delta", "rounds", "epsilon", "noise_multiplier", "scores_noise")
    CLIP_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SCORES_NOISE_FIELD_NUMBER: _ClassVar[int]
    clip: float
    delta: float
    rounds: int
    epsilon: float
    noise_multiplier: float
    scores_noise: float
    def __init__(self, clip: _Optional[float] = ..., delta: _Optional[float] = ..., rounds: _Optional[int] = ..., epsilon: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., scores_noise: _Optional[float] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("name", "parameters")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    def __init__(self, name: _Optional[str] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "number", "count", "flag", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    number: float
    count: int
    flag: bool
    text: str
    def __init__(self, name: _Optional[str] = ..., number: _Optional[float] = ..., count: _Optional[int] = ..., flag: bool = ..., text: _Optional[str] = ...) -> None: ...

class SumOrder(_message.Message):
    __slots__ = ("terms", "attempt", "parts", "factors", "caps", "one_each", "clip")
    TERMS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    FACTORS_FIELD_NUMBER: _ClassVar[int]
    CAPS_FIELD_NUMBER: _ClassVar[int]
    ONE_EACH_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    terms: SumTerms
    attempt: int
    parts: _containers.RepeatedCompositeFieldContainer[SumPart]
    factors: _containers.RepeatedCompositeFieldContainer[TaskCount]
    caps: _containers.RepeatedCompositeFieldContainer[TaskCount]
    one_each: bool
    clip: Clip
    def __init__(self, terms: _Optional[_Union[SumTerms, _Mapping]] = ..., attempt: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[SumPart, _Mapping]]] = ..., factors: _Optional[_Iterable[_Union[TaskCount, _Mapping]]] = ..., caps: _Optional[_Iterable[_Union[TaskCount, _Mapping]]] = ..., one_each: bool = ..., clip: _Optional[_Union[Clip, _Mapping]] = ...) -> None: ...

class Clip(_message.Message):
    __slots__ = ("length", "head_scale")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    HEAD_SCALE_FIELD_NUMBER: _ClassVar[int]
    length: float
    head_scale: float
    def __init__(self, length: _Optional[float] = ..., head_scale: _Optional[float] = ...) -> None: ...

class SumTerms(_message.Message):
    __slots__ = ("min_clients", "masks", "largest_change", "largest_weight", "corrupt", "dropouts", "pinned")
    MIN_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    LARGEST_CHANGE_FIELD_NUMBER: _ClassVar[int]
    LARGEST_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_FIELD_NUMBER: _ClassVar[int]
    DROPOUTS_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    min_clients: int
    masks: bool
    largest_change: float
    largest_weight: int
    corrupt: float
    dropouts: float
    pinned: bool
    def __init__(self, min_clients: _Optional[int] = ..., masks: bool = ..., largest_change: _Optional[float] = ..., largest_weight: _Optional[int] = ..., corrupt: _Optional[float] = ..., dropouts: _Optional[float] = ..., pinned: bool = ...) -> None: ...

class TaskCount(_message.Message):
    __slots__ = ("task", "count")
    TASK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    task: str
    count: int
    def __init__(self, task: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class SumPart(_message.Message):
    __slots__ = ("circle", "sharers", "letters")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    SHARERS_FIELD_NUMBER: _ClassVar[int]
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    circle: Circle
    sharers: _containers.RepeatedScalarFieldContainer[str]
    letters: _containers.RepeatedCompositeFieldContainer[MemberBytes]
    def __init__(self, circle: _Optional[_Union[Circle, _Mapping]] = ..., sharers: _Optional[_Iterable[str]] = ..., letters: _Optional[_Iterable[_Union[MemberBytes, _Mapping]]] = ...) -> None: ...

class Circle(_message.Message):
    __slots__ = ("name", "cells", "tasks", "members", "bits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    BITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    cells: _containers.RepeatedCompositeFieldContainer[SumCell]
    tasks: _containers.RepeatedScalarFieldContainer[str]
    members: int
    bits: int
    def __init__(self, name: _Optional[str] = ..., cells: _Optional[_Iterable[_Union[SumCell, _Mapping]]] = ..., tasks: _Optional[_Iterable[str]] = ..., members: _Optional[int] = ..., bits: _Optional[int] = ...) -> None: ...

class SumCell(_message.Message):
    __slots__ = ("scope", "task")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    scope: str
    task: str
    def __init__(self, scope: _Optional[str] = ..., task: _Optional[str] = ...) -> None: ...

class MemberBytes(_message.Message):
    __slots__ = ("member", "data")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    member: str
    data: bytes
    def __init__(self, member: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class Keys(_message.Message):
    __slots__ = ("attempt", "is_scoring", "terms", "circles")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    IS_SCORING_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    CIRCLES_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    is_scoring: bool
    terms: SumTerms
    circles: _containers.RepeatedCompositeFieldContainer[Circle]
    def __init__(self, attempt: _Optional[int] = ..., is_scoring: bool = ..., terms: _Optional[_Union[SumTerms, _Mapping]] = ..., circles: _Optional[_Iterable[_Union[Circle, _Mapping]]] = ...) -> None: ...

class AnnouncedKeys(_message.Message):
    __slots__ = ("circles",)
    CIRCLES_FIELD_NUMBER: _ClassVar[int]
    circles: _containers.RepeatedCompositeFieldContainer[CircleKeys]
    def __init__(self, circles: _Optional[_Iterable[_Union[CircleKeys, _Mapping]]] = ...) -> None: ...

class CircleKeys(_message.Message):
    __slots__ = ("circle", "announcement")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    ANNOUNCEMENT_FIELD_NUMBER: _ClassVar[int]
    circle: str
    announcement: Announcement
    def __init__(self, circle: _Optional[str] = ..., announcement: _Optional[_Union[Announcement, _Mapping]] = ...) -> None: ...

class Announcement(_message.Message):
    __slots__ = ("member", "mask_key", "letter_key", "seed_digest", "signature")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    LETTER_KEY_FIELD_NUMBER: _ClassVar[int]
    SEED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    member: str
    mask_key: bytes
    letter_key: bytes
    seed_digest: bytes
    signature: bytes
    def __init__(self, member: _Optional[str] = ..., mask_key: _Optional[bytes] = ..., letter_key: _Optional[bytes] = ..., seed_digest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Shares(_message.Message):
    __slots__ = ("attempt", "is_scoring", "rosters")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    IS_SCORING_FIELD_NUMBER: _ClassVar[int]
    ROSTERS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    is_scoring: bool
    rosters: _containers.RepeatedCompositeFieldContainer[CircleMembers]
    def __init__(self, attempt: _Optional[int] = ..., is_scoring: bool = ..., rosters: _Optional[_Iterable[_Union[CircleMembers, _Mapping]]] = ...) -> None: ...

class CircleMembers(_message.Message):
    __slots__ = ("circle", "members")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    circle: str
    members: _containers.RepeatedCompositeFieldContainer[Announcement]
    def __init__(self, circle: _Optional[str] = ..., members: _Optional[_Iterable[_Union[Announcement, _Mapping]]] = ...) -> None: ...

class SealedShares(_message.Message):
    __slots__ = ("circles",)
    CIRCLES_FIELD_NUMBER: _ClassVar[int]
    circles: _containers.RepeatedCompositeFieldContainer[CircleLetters]
    def __init__(self, circles: _Optional[_Iterable[_Union[CircleLetters, _Mapping]]] = ...) -> None: ...

class CircleLetters(_message.Message):
    __slots__ = ("circle", "letters")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    circle: str
    letters: _containers.RepeatedCompositeFieldContainer[MemberBytes]
    def __init__(self, circle: _Optional[str] = ..., letters: _Optional[_Iterable[_Union[MemberBytes, _Mapping]]] = ...) -> None: ...

class Confirm(_message.Message):
    __slots__ = ("attempt", "is_scoring", "survivors")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    IS_SCORING_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    is_scoring: bool
    survivors: _containers.RepeatedCompositeFieldContainer[CircleClients]
    def __init__(self, attempt: _Optional[int] = ..., is_scoring: bool = ..., survivors: _Optional[_Iterable[_Union[CircleClients, _Mapping]]] = ...) -> None: ...

class CircleClients(_message.Message):
    __slots__ = ("circle", "clients")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    circle: str
    clients: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, circle: _Optional[str] = ..., clients: _Optional[_Iterable[str]] = ...) -> None: ...

class SignedSurvivors(_message.Message):
    __slots__ = ("circles",)
    CIRCLES_FIELD_NUMBER: _ClassVar[int]
    circles: _containers.RepeatedCompositeFieldContainer[CircleSignature]
    def __init__(self, circles: _Optional[_Iterable[_Union[CircleSignature, _Mapping]]] = ...) -> None: ...

class CircleSignature(_message.Message):
    __slots__ = ("circle", "signature")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    circle: str
    signature: bytes
    def __init__(self, circle: _Optional[str] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Unmask(_message.Message):
    __slots__ = ("attempt", "is_scoring", "parts")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    IS_SCORING_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    is_scoring: bool
    parts: _containers.RepeatedCompositeFieldContainer[UnmaskPart]
    def __init__(self, attempt: _Optional[int] = ..., is_scoring: bool = ..., parts: _Optional[_Iterable[_Union[UnmaskPart, _Mapping]]] = ...) -> None: ...

class UnmaskPart(_message.Message):
    __slots__ = ("circle", "survivors", "signatures")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    SURVIVORS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    circle: str
    survivors: _containers.RepeatedScalarFieldContainer[str]
    signatures: _containers.RepeatedCompositeFieldContainer[MemberBytes]
    def __init__(self, circle: _Optional[str] = ..., survivors: _Optional[_Iterable[str]] = ..., signatures: _Optional[_Iterable[_Union[MemberBytes, _Mapping]]] = ...) -> None: ...

class OpenedShares(_message.Message):
    __slots__ = ("circles",)
    CIRCLES_FIELD_NUMBER: _ClassVar[int]
    circles: _containers.RepeatedCompositeFieldContainer[CircleShares]
    def __init__(self, circles: _Optional[_Iterable[_Union[CircleShares, _Mapping]]] = ...) -> None: ...

class CircleShares(_message.Message):
    __slots__ = ("circle", "seeds", "mask_keys")
    CIRCLE_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    circle: str
    seeds: _containers.RepeatedCompositeFieldContainer[MemberBytes]
    mask_keys: _containers.RepeatedCompositeFieldContainer[MemberBytes]
    def __init__(self, circle: _Optional[str] = ..., seeds: _Optional[_Iterable[_Union[MemberBytes, _Mapping]]] = ..., mask_keys: _Optional[_Iterable[_Union[MemberBytes, _Mapping]]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("session", "scope", "offset", "chunk_bytes")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    session: Session
    scope: ScopeVersion
    offset: int
    chunk_bytes: int
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., scope: _Optional[_Union[ScopeVersion, _Mapping]] = ..., offset: _Optional[int] = ..., chunk_bytes: _Optional[int] = ...) -> None: ...

class TokenizerRequest(_message.Message):
    __slots__ = ("session", "offset", "chunk_bytes")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    session: Session
    offset: int
    chunk_bytes: int
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., offset: _Optional[int] = ..., chunk_bytes: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class UploadPart(_message.Message):
    __slots__ = ("header", "data")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    data: bytes
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("session", "update", "payload")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    session: Session
    update: UpdateHeader
    payload: bytes
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., update: _Optional[_Union[UpdateHeader, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class UpdateHeader(_message.Message):
    __slots__ = ("order_id", "codec", "scopes", "digest", "results", "seconds", "offset")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    codec: str
    scopes: _containers.RepeatedCompositeFieldContainer[ScopePayload]
    digest: str
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    seconds: float
    offset: int
    def __init__(self, order_id: _Optional[str] = ..., codec: _Optional[str] = ..., scopes: _Optional[_Iterable[_Union[ScopePayload, _Mapping]]] = ..., digest: _Optional[str] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., seconds: _Optional[float] = ..., offset: _Optional[int] = ...) -> None: ...

class ScopePayload(_message.Message):
    __slots__ = ("scope", "base_version", "schema_digest", "nbytes")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    BASE_VERSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    scope: str
    base_version: int
    schema_digest: str
    nbytes: int
    def __init__(self, scope: _Optional[str] = ..., base_version: _Optional[int] = ..., schema_digest: _Optional[str] = ..., nbytes: _Optional[int] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task", "examples", "train_loss", "validation", "personal", "dual")
    TASK_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_FIELD_NUMBER: _ClassVar[int]
    PERSONAL_FIELD_NUMBER: _ClassVar[int]
    DUAL_FIELD_NUMBER: _ClassVar[int]
    task: str
    examples: int
    train_loss: float
    validation: TaskStatistics
    personal: TaskStatistics
    dual: DualSums
    def __init__(self, task: _Optional[str] = ..., examples: _Optional[int] = ..., train_loss: _Optional[float] = ..., validation: _Optional[_Union[TaskStatistics, _Mapping]] = ..., personal: _Optional[_Union[TaskStatistics, _Mapping]] = ..., dual: _Optional[_Union[DualSums, _Mapping]] = ...) -> None: ...

class DualSums(_message.Message):
    __slots__ = ("loss", "value", "lengths", "squares", "visits", "theta")
    LOSS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    VISITS_FIELD_NUMBER: _ClassVar[int]
    THETA_FIELD_NUMBER: _ClassVar[int]
    loss: float
    value: float
    lengths: float
    squares: float
    visits: int
    theta: float
    def __init__(self, loss: _Optional[float] = ..., value: _Optional[float] = ..., lengths: _Optional[float] = ..., squares: _Optional[float] = ..., visits: _Optional[int] = ..., theta: _Optional[float] = ...) -> None: ...

class TaskStatistics(_message.Message):
    __slots__ = ("examples", "loss_sum", "right", "labels", "moments", "means", "sums", "noised")
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    LOSS_SUM_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MOMENTS_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    NOISED_FIELD_NUMBER: _ClassVar[int]
    examples: int
    loss_sum: float
    right: int
    labels: _containers.RepeatedScalarFieldContainer[int]
    moments: _containers.RepeatedScalarFieldContainer[float]
    means: _containers.RepeatedCompositeFieldContainer[MeanMetric]
    sums: _containers.RepeatedCompositeFieldContainer[MetricSums]
    noised: bool
    def __init__(self, examples: _Optional[int] = ..., loss_sum: _Optional[float] = ..., right: _Optional[int] = ..., labels: _Optional[_Iterable[int]] = ..., moments: _Optional[_Iterable[float]] = ..., means: _Optional[_Iterable[_Union[MeanMetric, _Mapping]]] = ..., sums: _Optional[_Iterable[_Union[MetricSums, _Mapping]]] = ..., noised: bool = ...) -> None: ...

class MetricSums(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class MeanMetric(_message.Message):
    __slots__ = ("metric", "value", "examples")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    metric: str
    value: float
    examples: int
    def __init__(self, metric: _Optional[str] = ..., value: _Optional[float] = ..., examples: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("order_id", "digest")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    digest: str
    def __init__(self, order_id: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class UploadStatusRequest(_message.Message):
    __slots__ = ("session", "order_id")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    session: Session
    order_id: str
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., order_id: _Optional[str] = ...) -> None: ...

class UploadStatusReply(_message.Message):
    __slots__ = ("update_state", "received")
    UPDATE_STATE_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    update_state: str
    received: int
    def __init__(self, update_state: _Optional[str] = ..., received: _Optional[int] = ...) -> None: ...

class HeartbeatRequest(_message.Message):
    __slots__ = ("session", "progress")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    session: Session
    progress: Progress
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("order_id", "phase", "fraction")
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    order_id: str
    phase: str
    fraction: float
    def __init__(self, order_id: _Optional[str] = ..., phase: _Optional[str] = ..., fraction: _Optional[float] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("cancel",)
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    cancel: bool
    def __init__(self, cancel: bool = ...) -> None: ...

class FailureReport(_message.Message):
    __slots__ = ("session", "order_id", "reason")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    session: Session
    order_id: str
    reason: str
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., order_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class WithdrawRequest(_message.Message):
    __slots__ = ("client_id",)
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    def __init__(self, client_id: _Optional[str] = ...) -> None: ...
