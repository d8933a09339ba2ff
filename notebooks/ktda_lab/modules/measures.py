"""What notebooks 03 and 04 measure: gradients per term, distance of feature sets, attention and cost of the FMM."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ktda.fmm import FeatureModulation
from ktda.losses import AXES, distillation_loss
from ktda.seeding import generator
from ktda_lab.features.tokens import attended, attention


def transfer_terms(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> dict[str, Tensor]:
    """Every form of the distillation side by side, as scalars averaged over the levels.

    Args:
        students, teachers: (N, D, h, w) per level.

    Returns:
        ``KL AXIS, sum`` and ``KL AXIS, mean`` (the reductions "authors" and "mean") for each axis, and ``MSE``.
    """
    terms = {
        f"KL {axis}, {name}": distillation_loss(students, teachers, 1.0, axis=axis, reduction=reduction)
        for axis in AXES
        for name, reduction in {"sum": "authors", "mean": "mean"}.items()
    }
    return terms | {"MSE": distillation_loss(students, teachers, 0.0, reduction="mean")}


def align_only(
    model: nn.Module, images: Tensor, maps: Sequence[Tensor], objective: str, steps: int
) -> tuple[list[dict[str, float]], list[Tensor]]:
    """Train student and FAM on one form of the distillation and nothing else, by AdamW (rate 1e-3) on one batch.

    Args:
        model: a `ktda.model.KTDA`, changed in place.
        images: normalised (N, 3, H, W).
        maps: the teacher's, one (N, D, h, w) per level.
        objective: a key of `transfer_terms`.
        steps: of the optimiser.

    Returns:
        Every mean and the MSE before each step and after the last (steps + 1 entries), and the aligned maps at the end.
    """
    optimiser = torch.optim.AdamW([*model.student.parameters(), *model.fam.parameters()], 1e-3)
    history = []
    for step in range(steps + 1):
        aligned = model.train().align(images)
        terms = transfer_terms(aligned, maps)
        history.append({"step": step} | {name: term.item() for name, term in terms.items() if "sum" not in name})
        if step < steps:
            optimiser.zero_grad()
            terms[objective].backward()
            optimiser.step()
    return history, [level.detach() for level in aligned]


def gradient_norms(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, float]:
    """Euclidean norm of each term's own gradient on the parameters, 0 where a term does not reach them.

    Args:
        terms: scalars of one graph, which is kept.
        parameters: taken together, such as those of the student.
    """
    parameters, norms = list(parameters), {}
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        norms[name] = sum(g.double().square().sum().item() for g in gradients if g is not None) ** 0.5
    return norms


def signal_through(fmm: FeatureModulation, x: Tensor) -> tuple[float, float, float]:
    """What a module leaves of a signal and of a gradient.

    Args:
        fmm: of one level.
        x: (N, D, h, w).

    Returns:
        Spread over places and images of the output against the input, and the cosine of the two, both without each
        channel's mean; and the deviation of the gradient that arrives at the input where a
        random one of deviation 1 is sent into the output.
    """
    x = x.detach().requires_grad_()
    y = fmm([x])[0]
    (arrived,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=generator(0, "signal")).to(y))
    a, b = (m.detach() - m.detach().mean((0, 2, 3), keepdim=True) for m in (x, y))
    return (b.norm() / a.norm()).item(), F.cosine_similarity(a, b).mean().item(), arrived.std().item()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of two Gaussians with the moments of two sets of vectors (Dowson and Landau 1982).

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2})``; the measure behind the FID (Heusel et al. 2017). Few vectors
    make it too large: compare with two samples of one set.

    Args:
        a, b: (L_a, D) and (L_b, D), at least two vectors each.
    """
    (mean_a, cov_a), (mean_b, cov_b) = ((x.double().mean(0), torch.atleast_2d(x.double().T.cov())) for x in (a, b))
    values, axes = torch.linalg.eigh(cov_a)
    root = axes * values.clamp(min=0).sqrt() @ axes.T  # C_a^{1/2}
    # C_a C_b has the eigenvalues of the symmetric C_a^{1/2} C_b C_a^{1/2}
    mixed = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * mixed
    return max(0.0, distance.item())


def block_attention(block: Block, tokens: Tensor) -> Tensor:
    """Attention weights of a transformer block, the matrix that the fused form never builds.

    Args:
        block: of `ktda.fmm.FeatureModulation` in its "vit" form.
        tokens: (N, L, D) that enter the block.

    Returns:
        (N, heads, L, L); row i says how much token i takes from every token, and sums to 1.
    """
    queries, keys, _ = attended(block.attn, block.norm1(tokens))
    return attention(queries, keys)


def fmm_cost(tokens: int, dim: int, kind: str = "vit", heads: int = 8, hidden: int = 0) -> dict[str, float]:
    """Cost of one FMM block for one image, by formula.

    Args:
        tokens: L, places of the level.
        dim: channels D.
        kind, heads, hidden: as in `ktda.fmm.FeatureModulation`.

    Returns:
        ``parameters``; ``linear`` and ``attention``, GFLOPs of the layers and of the two attention products (a
        multiply-add is 2 operations; norms, softmax and activations are not counted) and ``gflops``, their sum;
        ``matrix``, GiB of an attention matrix of all heads in fp32, if it were built.
    """
    if kind == "mlp":
        hidden = hidden or dim // 4
        weights, biases, attention, matrix = 2 * dim * hidden, hidden + dim, 0, 0
    else:
        hidden = hidden or 4 * dim
        weights = 4 * dim**2 + 2 * dim * hidden  # qkv and projection; the MLP
        biases = 5 * dim + hidden + 4 * dim  # qkv, projection, MLP; two norms of a weight and a bias
        attention, matrix = 4 * tokens**2 * dim, heads * tokens**2 * 4
    cost = {"parameters": weights + biases, "linear": 2 * tokens * weights / 1e9, "attention": attention / 1e9}
    return cost | {"gflops": cost["linear"] + cost["attention"], "matrix": matrix / 2**30}


def milliseconds(function: Callable[[], object], repeats: int = 3) -> float:
    """Shortest of some timed calls after one that warms up: what is slower had something else beside it."""
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        with torch.inference_mode():
            function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return 1000 * min(seconds[1:])
