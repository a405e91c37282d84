"""All that a run learns, and the encoders that are made of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from training.checkpoint import STAGES, rates
from training.coding.learning import HIDDEN, SIZE
from training.config import Config
from training.learning.finetune import Classifier, JointHead
from training.nets.backbones import BACKBONES, Network, feature_count, features, together
from training.nets.encoder import Coding, Description, Encoder, Normalise
from training.nets.head import Head
from training.nets.images import Reading
from training.nets.pretrained import Origin, about, load_weights

STUDENT = "conv7"  # the network that learns from changed images


class Model(nn.Module):
    """All that a run learns. With no classes, only normalisation and network mean something.

    The head is a Head on the features of the classifier's network, or a JointHead with features of its own.
    """

    head: Head | JointHead
    mirrors = True  # whether mirror images say the same

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        self.normalise = Normalise(whiten=config.whiten)
        latents = config.latents if config.rule == "vae" and config.vae_classifier == "latents" else 0
        network = Network(
            config.backbone,
            config.image_size,
            rescale=config.norm_rescale,
            latents=latents,
            hidden=config.recipe == "paper",
        )
        width = (latents or BACKBONES[config.backbone].hidden) if classes else 0
        self.classifier = Classifier(network, width, classes, config.dropout)
        count = feature_count(config.backbone, config.image_size)
        if config.head == "joint" and classes:
            own = features(config.backbone, rescale=config.norm_rescale).to(memory_format=torch.channels_last)
            self.head = JointHead(own, count, config.bits, classes, config.dropout)
        else:
            self.head = Head(count, config.bits, classes)

    @property
    def network(self) -> Network:
        """The network that is pre-trained, and then the classifier's."""
        return self.classifier.network

    def take(self, learned: Mapping[str, Tensor]) -> None:
        """The network has what was `learned`, as a learner's `weights`, but for a hidden layer that it lacks:
        by the recipe best the features are all that counts."""
        kept = self.network.state_dict().keys()
        self.network.load_state_dict({name: value for name, value in learned.items() if name in kept})

    def encoding(self) -> tuple[nn.Sequential, Head]:
        """The convolutional part and the head that make the codes."""
        if isinstance(self.head, JointHead):
            return self.head.features, self.head.plain()
        return self.network.features, self.head

    def encoder(self, config: Config) -> Encoder:
        """What encodes images as this does. Raises FloatingPointError for what is not finite."""
        features, head = self.encoding()
        classes = 0 if head.classifier is None else head.classifier.out_features
        encoder = self.filled(Encoder(described(config, classes)), features)
        encoder.head.load_state_dict(head.state_dict())
        check_finite(encoder, config)
        return encoder.eval()

    def filled(self, encoder: Encoder, features: nn.Sequential) -> Encoder:
        """`encoder` with the normalisation that was learned, and with these features."""
        encoder.normalise.load_state_dict(self.normalise.state_dict())
        encoder.features.load_state_dict(features.state_dict())
        return encoder

    def embedder(self, config: Config, classes: int, count: int) -> Encoder:
        """An encoder with the features that were learned, whose embedding and head are yet to learn from
        `count` images."""
        length = min(SIZE, feature_count(config.backbone, config.image_size), count - 1)
        made = described(config, classes, Coding(length, HIDDEN, self.mirrors))
        encoder = self.filled(Encoder(made), self.network.features)
        check_finite(encoder, config)
        return encoder.to(next(self.parameters()).device).eval()

    def student_encoder(self, config: Config, features: nn.Sequential, classes: int, count: int) -> Encoder:
        """The same with a student's features."""
        backbone = student_of(config)
        length = min(SIZE, feature_count(backbone, config.image_size), count - 1)
        made = replace(described(config, classes, Coding(length, HIDDEN, self.mirrors)), backbone=backbone)
        return self.filled(Encoder(made), features).to(next(self.parameters()).device).eval()


def student_of(config: Config) -> str:
    """The backbone that learns from changed images."""
    return config.backbone if config.finetune_backbone else STUDENT


def joined_encoder(first: Encoder, second: Encoder) -> Encoder:
    """An encoder whose embeddings are those of two others joined; its head is yet to learn."""
    both = (first, second)
    coding = first.description.coding
    assert coding is not None
    sizes = [each.embedding_size for each in both]
    kept = kept_of(sizes)
    made = Encoder(replace(
        first.description,
        backbone=together(*(each.description.backbone for each in both)),
        coding=replace(coding, embedding=sum(kept), parts=tuple(zip(sizes, kept, strict=True))),
    ))  # fmt: skip
    made.normalise.load_state_dict(first.normalise.state_dict())
    (networks,) = made.features
    for part, each in enumerate(both):
        networks[part].load_state_dict(each.features.state_dict())  # type: ignore[index]
        made.embedding[part].load_state_dict(each.embedding.state_dict())  # type: ignore[index]
    return made.to(next(first.parameters()).device).eval()


def kept_of(sizes: Sequence[int]) -> list[int]:
    """How much of embeddings of these lengths is kept where they are joined: as much of each as there is room
    for."""
    return [min(size, SIZE // len(sizes)) for size in sizes]


def described(config: Config, classes: int, coding: Coding | None = None) -> Description:
    """The encoder that a run makes."""
    return Description(
        backbone=config.backbone,
        image_size=config.image_size,
        whiten=config.whiten,
        bits=config.bits,
        classes=classes,
        norm_rescale=config.norm_rescale,
        reading=Reading(grey_bits=config.grey_bits),
        coding=coding,
    )


def check_finite(encoder: Encoder, config: Config) -> None:
    """FloatingPointError for a weight that is not."""
    for name, tensor in encoder.state_dict().items():
        if not torch.isfinite(tensor).all():
            smaller = " ".join(f"--set {key}={rate / 10:g}" for key, rate in rates(config)[STAGES[0]].items())
            raise FloatingPointError(
                f"{name} is not finite after training with rule {config.rule}: use a smaller learning "
                f"rate ({smaller})"
            )


def take_pretrained(model: Model, config: Config) -> Origin:
    """The weights and the normalisation of a network that learned elsewhere."""
    known = about(config.backbone)
    model.normalise.mean.copy_(torch.tensor(known.mean))
    model.normalise.std.copy_(torch.tensor(known.std))
    (trunk,) = model.network.features
    return load_weights(trunk, config.backbone, config.weights)


def xavier(network: Network) -> None:
    """Glorot and Bengio's initialisation of every convolution: the network that learned nothing."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
