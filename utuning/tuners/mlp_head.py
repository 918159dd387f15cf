"""MLP head, a baseline of VPT's comparison (MLP-k, arXiv 2203.12119)."""

from typing import Annotated

from torch import Generator, Tensor, nn

from utuning.linear import empty_linear
from utuning.settings import AtLeast

CLASSIFIER_STD = 0.02


class MLPHead(nn.Module):
    """scores = W relu(W_n … relu(W_1 f + b_1) … + b_n) + b, all hidden layers as wide as the features F.

    Two hidden layers are VPT's MLP-3. Parameters: n (F^2 + F) + FC + C. The source has BatchNorm1d and dropout 0.1
    after each hidden layer. Both are left out: batch statistics would make a result depend on the number of workers,
    and global random draws on who trains beside a member. Hidden weights are Kaiming-normal, the classifier's truncated
    normal with std 0.02, biases zero.

    Args:
        num_features: F.
        num_classes: C.
        num_layers: n, the number of hidden layers.
        generator: source of the initial values.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        num_layers: Annotated[int, AtLeast(1)] = 2,
        generator: Generator,
    ) -> None:
        super().__init__()
        hidden = [empty_linear(num_features, num_features) for _ in range(num_layers)]
        self.hidden = nn.ModuleList(hidden)
        self.classifier = empty_linear(num_features, num_classes)
        for layer in hidden:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.classifier.weight, std=CLASSIFIER_STD, generator=generator)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Class scores, (B, C)."""
        for layer in self.hidden:
            features_BF = layer(features_BF).relu()
        scores_BC: Tensor = self.classifier(features_BF)
        return scores_BC
