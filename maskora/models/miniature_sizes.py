"""What the miniature asks of memory: Wan's arithmetic without encoders."""

from maskora.models.files.source import Source
from maskora.models.sizes import Encoder
from maskora.models.wan.checks import WanTransformer, WanVae
from maskora.models.wan21_encoder_sizes import Vae
from maskora.models.wan21_sizes import WanSizes, read_grid
from maskora.models.wan21_transformer_sizes import Transformer

WORDS = 1


class MiniatureSizes(WanSizes):
    """The miniature. See `maskora.models.sizes.Sizes` for what each method promises."""

    def __init__(self, family: str, source: Source) -> None:
        self.grid = read_grid(source)
        self._transformer = Transformer.read(WanTransformer.of(source, "transformer"))
        self._image = None
        self._vae = Vae.read(WanVae.of(source, "vae"))
        self.experts = 1
        self.parameters = {"transformer": self._transformer.count(), "vae": self._vae.count()}
        self.name = f"{family} {self._transformer.layers} x {self._transformer.width}"

    def encoders(self, dtype: str) -> dict[str, Encoder]:
        return {}

    def lora_parameters(self, rank: int, targets: str) -> int:
        cross_attention = self._transformer.layers * rank * 4 * 2 * self._transformer.width
        return super().lora_parameters(rank, targets) - cross_attention

    def _context(self) -> int:
        return WORDS
