"""What an edited clip costs: seconds, evaluations of the transformer, and memory.

Each condition is measured in a process of its own, of one thread.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from torch import Tensor

from maskora.files import write_text
from maskora.models.registry import ModelInputs, Transformer, VideoModel
from research.claims import trials
from research.claims.claims import CONDITIONS, FIRST_TO_CHOOSE
from research.claims.trials import Bench, Recipe

COST_NAMES = ("training s", "generating s", "evaluations", "memory MB")
EVERY = 0.002  # seconds between two looks at the memory


@dataclass(frozen=True)
class Cost:
    """Of one clip.

    Attributes:
        training, generating: seconds; generating includes inversion, and no encoding.
        evaluations: rows that the transformer was evaluated for while generating.
        memory: bytes that the process took beyond the loaded transformer.
    """

    training: float
    generating: float
    evaluations: int
    memory: int

    def cells(self) -> tuple[str, ...]:
        """As `COST_NAMES` has them."""
        return (
            f"{self.training:.1f}", f"{self.generating:.1f}", str(self.evaluations),
            f"{self.memory / 1e6:.0f}",
        )  # fmt: skip


Costs = Mapping[str, Cost]  # by condition


def write_costs(path: Path, base: str, costs: Costs) -> None:
    """Write costs for `read_costs`."""
    plain = {name: asdict(cost) for name, cost in costs.items()}
    write_text(path, json.dumps({"base": base, "costs": plain}, indent=1) + "\n")


def read_costs(path: Path, base: str) -> Costs:
    """The costs in a file; none where it is missing or another base's."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["base"] != base:
        return {}
    return {name: Cost(**cost) for name, cost in content["costs"].items()}


def cost_of(folder: Path, cache: Path, name: str, recipes: Mapping[str, Recipe]) -> Cost:
    """Train and generate one clip; what has to be encoded is encoded before, in a first round."""
    model, condition = trials.open_base(folder), CONDITIONS[name]
    bench = Bench(model, trials.draw_task(FIRST_TO_CHOOSE, condition.subject), cache, 0)
    transformer = model.load_transformer()
    with closing(transformer.streamed):
        bench.sample(transformer, condition)
        windows = bench.motion(condition.training) if condition.training else []
        with watched(model) as watch:
            began = time.perf_counter()
            if condition.training is not None:
                recipe = recipes[trials.recipe_name("motion", condition.training.conditioning)]
                trials.learn(model, transformer, bench, windows, recipe, condition.training, 0)
            trained = time.perf_counter()
            watch.rows = 0
            bench.sample(transformer, condition)
            ended = time.perf_counter()
    return Cost(trained - began, ended - trained, watch.rows, watch.most)


@dataclass
class Watch:
    """What is counted: rows of the transformer, and bytes beyond those at its beginning."""

    rows: int = 0
    most: int = 0


@contextmanager
def watched(model: VideoModel) -> Iterator[Watch]:
    """Count a model's evaluations, and look at the process's memory, while the context lasts."""
    watch, own, predict = Watch(), psutil.Process(), model.predict
    first, over = own.memory_info().rss, threading.Event()

    def counted(
        transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        watch.rows += len(noisy_BCTHW)
        return predict(transformer, noisy_BCTHW, timestep_B, inputs)

    def look() -> None:
        while not over.wait(EVERY):
            watch.most = max(watch.most, own.memory_info().rss - first)

    looking = threading.Thread(target=look)
    model.predict = counted  # type: ignore[method-assign]
    looking.start()
    try:
        yield watch
    finally:
        over.set()
        looking.join()
        model.predict = predict  # type: ignore[method-assign]
