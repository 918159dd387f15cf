"""Heads with a shape or a loss of their own, and retrieval with embeddings."""

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from tests.tools import adapter, batch, train
from utuning.backbone import Backbone
from utuning.cohort import Cohort
from utuning.configs import TunerConfig
from utuning.data.transforms import normalise
from utuning.errors import ConfigError
from utuning.member import Member
from utuning.retrieval import embeddings, recall_at_k
from utuning.tuners.mlp_head import MLPHead
from utuning.tuners.proxy_head import ProxyHead


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def with_head(backbone: Backbone, *tuners: TunerConfig, seed: int = 0) -> Member:
    return Member(backbone, num_classes=5, config=train(seed=seed), tuners=tuners, steps_per_epoch=2)


def test_mlp_head_by_hand() -> None:
    head = MLPHead(6, 4, generator=Generator().manual_seed(0))
    x = noise(3, 6)
    first, second = head.hidden
    hidden = (x @ first.weight.T + first.bias).clamp(min=0)
    hidden = (hidden @ second.weight.T + second.bias).clamp(min=0)
    torch.testing.assert_close(head(x), hidden @ head.classifier.weight.T + head.classifier.bias)
    assert sum(p.numel() for p in head.parameters()) == 2 * (6 * 6 + 6) + 4 * 6 + 4


def test_mlp_head_starts_from_the_generator_alone() -> None:
    torch.manual_seed(0)
    one = MLPHead(64, 4, num_layers=1, generator=Generator().manual_seed(2))
    torch.manual_seed(1)
    two = MLPHead(64, 4, num_layers=1, generator=Generator().manual_seed(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert abs(float(one.hidden[0].weight.detach().std()) - (2 / 64) ** 0.5) < 0.01


def proxy_anchor(cos_BC: Tensor, labels_B: Tensor, alpha: float, margin: float) -> Tensor:
    """The source's loss of a whole batch, with its log-sum-exp over the images of a proxy."""
    terms: list[list[Tensor]] = [[], []]
    for c in range(cos_BC.shape[1]):
        own = torch.exp(-alpha * (cos_BC[labels_B == c, c] - margin)).sum()
        others = torch.exp(alpha * (cos_BC[labels_B != c, c] + margin)).sum()
        if (labels_B == c).any():
            terms[0].append(torch.log(1 + own))
        terms[1].append(torch.log(1 + others))
    return torch.stack(terms[0]).mean() + torch.stack(terms[1]).sum() / cos_BC.shape[1]


def test_proxy_loss_is_proxy_anchors_of_each_image_alone() -> None:
    head = ProxyHead(6, 4, embedding_dim=3, alpha=8.0, margin=0.2, generator=Generator().manual_seed(0))
    x, labels = noise(5, 6), torch.tensor([0, 3, 3, 1, 2])
    cos = normalize(x @ head.embedding.weight.T + head.embedding.bias, dim=-1) @ normalize(head.proxies, dim=-1).T
    scores = head(x)
    torch.testing.assert_close(scores, 8.0 * cos)
    by_hand = torch.stack([proxy_anchor(cos[i : i + 1], labels[i : i + 1], 8.0, 0.2) for i in range(5)])
    torch.testing.assert_close(head.loss(scores, labels), by_hand)
    assert torch.equal(scores.argmax(dim=1), cos.argmax(dim=1))
    torch.testing.assert_close(head.embed(x).norm(dim=-1), torch.ones(5))


def test_proxy_loss_of_a_batch_is_that_of_its_halves(backbone: Backbone) -> None:
    head = ProxyHead(6, 4, generator=Generator().manual_seed(0))
    scores, labels = head(noise(6, 6)), torch.tensor([0, 1, 2, 3, 0, 1])
    halves = [head.loss(scores[rows], labels[rows]) for rows in (slice(0, 3), slice(3, 6))]
    assert torch.equal(head.loss(scores, labels), torch.cat(halves))


@pytest.mark.parametrize("method", ["mlp_head", "proxy_head"])
def test_heads_learn_and_load(backbone: Backbone, method: str) -> None:
    who = with_head(backbone, adapter("attn"), TunerConfig(method=method))
    cohort = Cohort(backbone, [who])
    before = {name: value.clone() for name, value in who.tensors().items()}
    losses = [float(cohort.step(batch())) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert [name for name, value in who.tensors().items() if torch.equal(value, before[name])] == []
    other = with_head(backbone, adapter("attn"), TunerConfig(method=method), seed=5)
    other.load_tensors(who.tensors())
    images = batch(seed=3).images
    assert torch.equal(cohort.predict(images)[0], Cohort(backbone, [other]).predict(images)[0])


# Retrieval


def recall_by_brute_force(values: Tensor, labels: Tensor, k: int) -> float:
    hits = 0
    for i in range(len(values)):
        others = [j for j in range(len(values)) if j != i]
        others.sort(key=lambda j: -float(torch.cosine_similarity(values[i], values[j], dim=0)))
        hits += any(labels[j] == labels[i] for j in others[:k])
    return hits / len(values)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_recall_equals_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utuning.retrieval.QUERIES_AT_ONCE", 7)
    values, labels = noise(40, 8), torch.randint(0, 6, (40,), generator=Generator().manual_seed(1))
    assert recall_at_k(values, labels, k) == pytest.approx(recall_by_brute_force(values, labels, k))


def test_recall_of_separate_classes_is_one_and_of_lone_images_is_zero() -> None:
    values = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
    assert recall_at_k(values, torch.tensor([0, 0, 1, 1])) == 1.0
    assert recall_at_k(values, torch.tensor([0, 1, 2, 3]), k=3) == 0.0


@pytest.mark.parametrize(
    ("values", "labels", "k", "says"),
    [
        (torch.zeros(3), torch.zeros(3), 1, "do not fit"),
        (torch.zeros(3, 2), torch.zeros(4), 1, "do not fit"),
        (torch.zeros(3, 2), torch.zeros(3), 3, "1 <= k <"),
        (torch.zeros(3, 2), torch.zeros(3), 0, "1 <= k <"),
        (torch.full((3, 2), torch.nan), torch.zeros(3), 1, "NaN"),
    ],
)
def test_bad_input_is_named(values: Tensor, labels: Tensor, k: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        recall_at_k(values, labels, k)


def test_embeddings_are_the_heads_or_the_features_without_padding(backbone: Backbone) -> None:
    batches = [batch(seed=0), batch(seed=1, padding=2)]
    proxy, linear = (
        with_head(backbone, TunerConfig(method="proxy_head", settings={"embedding_dim": 7})),
        with_head(backbone),
    )
    embedded, labels = embeddings(backbone, proxy, batches)
    features, _ = embeddings(backbone, linear, batches)
    assert embedded.shape == (10, 7) and not embedded.requires_grad
    assert torch.equal(labels, torch.cat([batches[0].labels, batches[1].labels[:4]]))
    images = torch.cat([b.images for b in batches])[:10]
    with torch.no_grad():
        expected = backbone.trunk.model(normalise(images, backbone.preprocessing.mean, backbone.preprocessing.std))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    head = proxy.parts["head"]
    assert isinstance(head, ProxyHead)
    torch.testing.assert_close(embedded, head.embed(expected).detach(), rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="no image to embed"):
        embeddings(backbone, proxy, [batch(padding=6)])
