"""The stages inside one process: what each changes, and which images it may see."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import training.coding.learning
import training.run
from index import artifact
from index.evaluation import mean_average_precision
from tests.training.encoding import encode
from tests.training.test_build_index import QUICK, striped_folder
from training.checkpoint import CheckpointError, write_checkpoint
from training.coding.learning import learn_embedding
from training.config import configure
from training.learning.finetune import Supervised
from training.learning.hebbian import HebbianConv2d
from training.learning.student import PixelStudent
from training.model import Model, xavier
from training.nets.backbones import BACKBONES, Network
from training.nets.images import Reading
from training.run import Run, pixels_of, positions_of, remembered_embeddings

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("narrow")]


class Watched:
    """Pixels that note which images were asked for."""

    def __init__(self, pixels):
        self.pixels, self.seen = pixels, set()

    def __getitem__(self, positions):
        self.seen |= set(positions.tolist())
        return self.pixels[positions]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return striped_folder(tmp_path_factory.mktemp("pictures"), 240)


@pytest.fixture
def run(pictures, tmp_path):
    def make(**chosen):
        values = {
            "data": str(pictures),
            "image_size": 28,
            "epochs": 1,
            "finetune_epochs": 2,
            "head_epochs": 2,
        }
        made = Run(configure(values | chosen), tmp_path)
        made.pixels = Watched(made.pixels)
        return made

    return make


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module, before):
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def test_the_depth_of_grey_is_kept_with_the_encoder():
    for bits in (0, 12):
        config = configure({"grey_bits": bits})
        assert Model(config, 2).encoder(config).description.reading == Reading(grey_bits=bits)


@pytest.mark.usefixtures("real")
def test_none_is_xaviers_initialisation(run):
    """Uniform in ±√(6 / (fan in + fan out)); vgg11's hidden layer is a linear one at 32 pixels."""
    learned_nothing, linear = run(rule="none"), Network("vgg11", 32)
    learned_nothing.learn_features()
    xavier(linear)
    for network, layers in ((learned_nothing.model.network, 5), (linear, 9)):
        weights = [tensor.numpy() for name, tensor in network.state_dict().items() if tensor.ndim == 4]
        assert len(weights) == layers
        for weight in weights:
            neurons, inputs, *kernel = weight.shape
            bound = np.sqrt(6 / ((inputs + neurons) * np.prod(kernel)))
            assert 0.99 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
            assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
            assert abs(weight.mean()) < 0.05 * bound
    assert weights[-1].shape == (4096, 512, 1, 1)


@pytest.mark.parametrize(
    "chosen",
    [{}, {"rule": "swta_fh"}, {"rule": "none"}, {"head": "joint"}],
    ids=["hpca_fh", "swta_fh", "none", "joint"],
)
def test_training_never_looks_at_a_query(run, chosen):
    made = run(**chosen)
    made.train()
    assert made.pixels.seen == set(made.split.database.tolist())
    assert len(made.split.validation) > 0
    encode(made, made.encoder(), made.split.queries)
    assert made.pixels.seen == set(range(240))


def test_each_stage_sees_only_its_images(run):
    made = run(labels="50%")
    made.fit_preprocessing()
    assert made.pixels.seen == set(made.split.pretraining.tolist())
    made.pixels.seen.clear()
    made.finetune(None)
    learned = set(made.split.training.tolist()) | set(made.split.validation.tolist())
    assert made.pixels.seen == learned
    assert len(learned) == 108  # half of the 216 that are not queries
    made.pixels.seen.clear()
    made.train_head(None)
    assert made.pixels.seen == learned


def test_validation_chooses_the_epoch_by_its_own_images(run):
    made = run(finetune_epochs=3)
    made.fit_preprocessing()
    made.finetune(None).finish()
    model = made.model.classifier.eval()
    with torch.no_grad():
        inputs = made.inputs(made.groups(made.split.validation))
        guesses = torch.cat([model(x).argmax(1) for _, x in inputs])
    truth = torch.from_numpy(made.images.labels[made.split.validation])
    assert float((guesses == truth).float().mean()) == pytest.approx(max(made.validation["fine-tuning"]))


def test_pretrained_weights_reach_the_network(run, monkeypatch):
    layers = []
    made_layer = HebbianConv2d.__init__

    def remember(self, *arguments, **options):
        made_layer(self, *arguments, **options)
        layers.append(self)

    monkeypatch.setattr(HebbianConv2d, "__init__", remember)
    made = run()
    made.fit_preprocessing()
    made.pretrain(None)
    learned = [block[0].weight for block in [*made.model.network.features, made.model.network.hidden]]
    assert len(layers) == len(learned) == 5
    for layer, weight in zip(layers, learned, strict=True):
        assert torch.equal(layer.filters(), weight)


def test_classifier_may_sit_on_the_autoencoders_latents(run):
    made = run(rule="vae", vae_classifier="latents", latents=16)
    made.learn_features()
    network = weights(made.model.network)
    assert made.model.classifier.linear.in_features == len(network["latents.bias"]) == 16
    made.finetune(None).finish()
    assert "latents.weight" in changed(made.model.network, network)
    assert isinstance(run(vae_classifier="latents").model.network.latents, torch.nn.Identity)
    made.train_head(None).finish()
    assert encode(made, made.encoder(), made.split.queries).shape == (24, 32)


def test_fine_tuning_reaches_the_first_layer(run, monkeypatch):
    tuned = {}
    finetune = Run.finetune

    def compare(self, saved):
        before = weights(self.model.network)
        learning = finetune(self, saved)
        tuned["by training"] = changed(self.model.network, before)
        return learning

    monkeypatch.setattr(Run, "finetune", compare)
    run().train()
    assert {"features.0.0.weight", "features.3.0.weight", "hidden.0.weight"} <= tuned["by training"]


def test_head_leaves_the_network_as_it_is(run):
    made = run()
    made.fit_preprocessing()
    network, head = weights(made.model.network), weights(made.model.head)
    made.train_head(None)
    assert changed(made.model.network, network) == set()  # batch norm's statistics included
    assert changed(made.model.head, head) == set(head)


def test_joint_head_begins_with_the_pretrained_features_and_leaves_the_classifier(run):
    made = run(head="joint")
    made.learn_features()
    pretrained = weights(made.model.network.features)
    made.finetune(None).finish()
    assert changed(made.model.head.features, pretrained) == set()
    assert "0.0.weight" in changed(made.model.network.features, pretrained)
    classifier, head = weights(made.model.classifier), weights(made.model.head)
    made.train_head(None).finish()
    assert changed(made.model.classifier, classifier) == set()
    assert {"features.0.0.weight", "hash.weight", "norm.weight"} <= changed(made.model.head, head)


def test_joint_heads_codes_are_those_of_the_encoder(run):
    made = run(head="joint", finetune_epochs=3, precision="fp32", rule="none")
    assert made.train() == "supervised head, fine-tuned with its features"
    assert len(made.validation["hashing head"]) == 3
    made.model.eval()
    with torch.no_grad():
        units = torch.cat([made.model.head.units(x) for _, x in made.inputs(made.groups(made.split.queries))])
    encoder = made.encoder()
    assert encoder.head.classifier is None
    bits = np.unpackbits(encode(made, encoder, made.split.queries), axis=1)
    clear = units.abs() > 1e-4
    assert clear.float().mean() > 0.99
    assert torch.equal(torch.from_numpy(bits)[clear] > 0, units[clear] >= 0)
    assert 0.1 < bits.mean() < 0.9


@pytest.mark.parametrize(("rule", "head"), [("hpca_fh", "frozen"), ("vae", "joint"), ("hah", "joint")])
def test_encoder_of_a_rescaled_network_sees_what_the_run_saw(run, rule, head):
    made = run(norm_rescale=True, precision="fp32", rule=rule, head=head, finetune_epochs=1, head_epochs=1)
    made.train()
    features, _ = made.model.encoding()
    encoder = made.encoder()
    with torch.no_grad():
        ((_, images),) = made.inputs(made.groups(made.split.queries))
        own = features.eval()(images)
        torch.testing.assert_close(encoder.features(images), own)
    assert [type(block[-1]).__name__ for block in features] == [
        "BatchNorm2d", "BatchNorm2d", "RescaledBatchNorm2d", "RescaledBatchNorm2d"]  # fmt: skip


@pytest.mark.parametrize("head", ["frozen", "joint"])
@pytest.mark.parametrize("epochs", [1, 3])  # in the fine-tuning, in the head
def test_run_stopped_in_a_supervised_stage_goes_on_to_the_same_model(run, stopped, head, epochs):
    straight = run(head=head)
    straight.train()
    straight.checkpoint.unlink()
    stopped(epochs, head=head)
    resumed = run(head=head)
    resumed.train()
    assert changed(resumed.model, weights(straight.model)) == set()
    assert resumed.validation == straight.validation


@pytest.fixture
def stopped(run, monkeypatch):
    """Start a run that is stopped after so many epochs of fine-tuning and head, or of what else learns."""

    def start(epochs, learner=Supervised, **chosen):
        learn, left = learner.epoch, iter(range(epochs))

        def learn_and_stop(self, number, batches):
            if next(left, None) is None:
                raise KeyboardInterrupt
            learn(self, number, batches)

        made = run(**chosen)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(learner, "epoch", learn_and_stop)
            made.train()
        return made

    return start


@pytest.mark.parametrize(
    ("epochs", "other"),  # 1: stopped in the fine-tuning, 3: in the head
    [
        (1, {"finetune_lr": 1e-2}),
        (3, {"hebbian_lr": 1e-2, "head_lr": 0.3}),
        (3, {"finetune_lr": 1e-2}),
        (3, {"head_lr": 0.3}),
    ],
)
def test_another_learning_rate_holds_from_the_beginning_of_its_stage(run, stopped, epochs, other):
    """Whatever was learned with the old one, also where the run is stopped again before it got far."""
    straight = run(**other)
    straight.train()
    straight.checkpoint.unlink()
    stopped(epochs)
    stopped(0, **other)
    resumed = run(**other)
    resumed.train()
    assert changed(resumed.model, weights(straight.model)) == set()
    assert resumed.validation == straight.validation


def test_what_another_rule_goes_by_begins_nothing_anew(run, stopped, monkeypatch):
    stopped(3)
    made = run(vae_lr=0.5, hah_lr=0.5)
    monkeypatch.setattr(made, "finetune", None)
    monkeypatch.setattr(made, "fit_preprocessing", None)
    made.train()


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            {"head_lr": 1e30},
            r"^hashing head diverged in epoch 1 with learning rate 1e\+30: use a smaller one \(--set "
            r"head_lr=1e\+29, or, if the fine-tuning has spoilt the features, finetune_lr=0\.0001\)$",
        ),
        ({"finetune_lr": 1e30}, r"^fine-tuning diverged in epoch 1 .*\(--set finetune_lr=1e\+29\)$"),
    ],
)
def test_divergence_names_its_stage_and_setting(run, chosen, says):
    made = run(**chosen)
    with pytest.raises(FloatingPointError, match=says):
        made.train()


def test_divergence_of_a_joint_head_is_the_heads(run, monkeypatch):
    made = run(head="joint")
    made.learn_features()
    made.finetune(None).finish()
    made.config = replace(made.config, finetune_lr=1e30)
    with pytest.raises(FloatingPointError, match=r"^hashing head diverged .*\(--set finetune_lr=1e\+29\)$"):
        made.train_head(None)


def test_statistics_that_overflow_are_divergence(run):
    """Of the stage where they do, and not of the one that finds them."""
    made = run()
    made.learn_features()
    made.model.network.features[0][-1].running_var.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match="fine-tuning diverged"):
        made.finetune(None)


def test_any_flipped_bit_of_a_checkpoint_is_noticed(run, stopped):
    made = stopped(3)
    content = made.checkpoint.read_bytes()
    assert made.restore()["stage"] == "hashing head"
    for at in [*range(0, len(content), len(content) // 97), len(content) - 1]:
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        made.checkpoint.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="checkpoint cannot be read") as refused:
            made.restore()
    assert "put before-hashing-head.pt in its place" in str(refused.value)
    kept = made.checkpoint.with_name("before-hashing-head.pt")
    shutil.copyfile(kept, made.checkpoint)  # as it is advised
    assert (made.restore()["stage"], made.restore()["epoch"]) == ("hashing head", 0)
    content = kept.read_bytes()
    kept.write_bytes(content[:-1])
    anew = r"before-hashing-head\.pt: .* cannot be read .*; remove \S+/checkpoint\.pt and .* anew$"
    with pytest.raises(CheckpointError, match=anew):
        run(head_lr=0.1).restore()


def test_checkpoint_of_an_earlier_version_is_gone_on_from(run, stopped):
    made = stopped(3)
    saved = made.restore()
    del saved["rates"]
    torch.save(saved, made.checkpoint)
    made.checkpoint.with_name("images.json").unlink()
    assert run(head_lr=0.1).restore()["epoch"] == 1
    saved["images"] = "others"
    torch.save(saved, made.checkpoint)
    with pytest.raises(CheckpointError, match="those that the run was started with, so that"):
        made.restore()


def test_same_seed_same_model_and_another_seed_another(run):
    models = []
    for seed in (0, 0, 1):
        made = run(seed=seed)
        made.checkpoint.unlink(missing_ok=True)
        made.train()
        models.append(weights(made.model.head))
    assert torch.equal(models[0]["hash.weight"], models[1]["hash.weight"])
    assert not torch.equal(models[0]["hash.weight"], models[2]["hash.weight"])


@pytest.mark.parametrize("what", ["remembered_inputs", "remembered_features"])
def test_inputs_and_features_are_the_same_remembered_or_not(run, monkeypatch, what):
    made = run(whiten=True, precision="fp32")  # bfloat16 turns a last bit of 32 into one of 8
    made.fit_preprocessing()
    made.model.network.eval()
    at = torch.from_numpy(made.split.training[:5])
    ((where, remembered),) = getattr(made, what)()([at])
    monkeypatch.setattr("training.run.REMEMBERED_BYTES", 0)
    ((_, computed),) = getattr(made, what)()([at])
    assert torch.equal(where, at)
    assert remembered.stride() == computed.stride()  # channels last, where there are channels
    torch.testing.assert_close(computed, remembered, rtol=1e-4, atol=1e-5)


def test_what_is_remembered_is_computed_once(run, monkeypatch):
    made = run()
    made.fit_preprocessing()
    inputs, asked = made.inputs, []
    monkeypatch.setattr(
        made, "inputs", lambda groups: (asked.append(len(at)) or (at, x) for at, x in inputs(groups))
    )
    made.finetune(None)
    assert sum(asked) == len(made.split.training) + len(made.split.validation)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_every_stage_computes_in_the_precision_of_the_run(run, precision, dtype):
    made = run(precision=precision)
    made.fit_preprocessing()
    groups = [torch.from_numpy(made.split.training[:5])]
    for stage in (made.inputs, made.features, made.remembered_inputs(), made.remembered_features()):
        assert [x.dtype for _, x in stage(groups)] == [dtype]
    assert [x.dtype for _, x in made.normalised(groups)] == [torch.float32]
    seen = []
    made.model.head.hash.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    made.train_head(None)
    assert set(seen) == {dtype}
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}


def test_without_labels_everything_is_indexed(run):
    made = run(labels="none")
    assert made.train().startswith("random rotation")
    assert np.array_equal(made.split.database, np.arange(240))
    assert made.classes == ()


@pytest.mark.parametrize("broken", ["truncated", "gone"])
def test_file_that_breaks_in_a_run_that_reads_on_demand_is_named(
    here, tmp_path, monkeypatch, before_the_head, broken
):
    striped_folder(tmp_path / "pictures", 40)
    spoilt = {}

    def spoil(run):
        name = run.images.paths[run.split.training[7]]
        file = tmp_path / "pictures" / name
        spoilt.update(name=name, file=file, content=file.read_bytes())
        file.unlink()
        if broken == "truncated":
            file.write_bytes(spoilt["content"][:100])

    monkeypatch.setattr("training.pixels.MEMORY_LIMIT", 0)
    with before_the_head(spoil):
        line = here("--data", "pictures", *QUICK, "--out", "here", code=2)
    name, file = re.escape(spoilt["name"]), spoilt["file"]
    changed = rf"pictures/{name}: it changed while the run was reading it \(.+\); put it back"
    assert re.search(changed, line)
    line = here("--resume", "here.partial", code=2)
    reason = r": the image is truncated or damaged.*" if broken == "truncated" else ""
    assert re.search(rf"not those that the run was started with \(1 gone, first {name}{reason}\)", line)
    file.write_bytes(spoilt["content"])
    here("--resume", "here.partial")
    here("--data", "pictures", *QUICK, "--out", "straight")
    resumed, straight = (artifact.open_artifact(tmp_path / name).manifest for name in ("here", "straight"))
    assert resumed.encoder_id == straight.encoder_id


def test_content_that_changed_before_a_run_goes_on_is_said(here, tmp_path, before_the_head, caplog):
    striped_folder(tmp_path / "pictures", 20)
    with before_the_head():
        here("--data", "pictures", *QUICK, "--out", "here", code=130)
    shutil.copyfile(tmp_path / "pictures" / "down" / "2.png", tmp_path / "pictures" / "across" / "3.png")
    here("--resume", "here.partial")
    assert "pictures: changed since the run began: 1 with other content, first across/3.png" in caplog.text


@pytest.mark.parametrize("layout", ["classes", "labels"])
def test_run_goes_on_from_another_folder(here, tmp_path, monkeypatch, before_the_head, layout):
    striped_folder(tmp_path / "my pictures", 40)
    rows = [f"{name}/{at}.png,{name}" for at in range(20) for name in [("down", "across")[at % 2]]]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    given = ["--data", "my pictures", *(["--labels", "labels.csv"] if layout == "labels" else [])]
    with before_the_head():
        here(*given, *QUICK, "--out", "far/here", code=130)
        here(*given, *QUICK, "--out", "far/within", code=130)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    here("--resume", "../far/here.partial")
    monkeypatch.chdir(tmp_path / "far" / "within.partial")
    here("--resume", ".")
    built = [artifact.open_artifact(tmp_path / "far" / name).manifest for name in ("here", "within")]
    assert built[0].encoder_id == built[1].encoder_id
    assert built[0].data["labelled"] + built[0].data["queries"] == (20 if layout == "labels" else 40)
    assert [path.name for path in (tmp_path / "far").iterdir() if path.suffix] == []


@pytest.fixture
def embedded_by(monkeypatch):
    """The backbones whose embeddings were learned."""
    backbones, learn = [], training.run.learn_embedding

    def noted(encoder, *rest):
        backbones.append(encoder.description.backbone)
        return learn(encoder, *rest)

    monkeypatch.setattr(training.run, "learn_embedding", noted)
    return backbones


WITH_STUDENT = {"recipe": "best", "labels": "50%", "bits": 32, "student_epochs": 4}


@pytest.mark.usefixtures("few")
def test_a_student_makes_the_codes_and_sees_no_query(run):
    made = run(**WITH_STUDENT)
    made.train()
    encoder = made.encoder()
    assert encoder.description.backbone == "soft3+conv7"
    assert made.pixels.seen == set(made.split.pretraining.tolist())
    asked = made.split.queries
    codes = encode(made, encoder, asked)
    database, known = made.split.database, made.images.labels
    found = mean_average_precision(codes, known[asked], encode(made, encoder, database), known[database])
    assert found > 0.9  # stripes are no hard case; chance would be a half


@pytest.mark.parametrize(("labels", "times"), [("50%", 4), ("100%", 1)])
def test_only_images_without_a_label_are_looked_at_anew(run, few, embedded_by, labels, times):
    run(**WITH_STUDENT | {"labels": labels}).train()
    assert embedded_by.count("conv7") == times  # after each quarter, and for the codes


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("after", [0, 2])
def test_a_student_goes_on_as_if_nothing_had_happened(run, stopped, embedded_by, tmp_path, after):
    stopped(after, learner=PixelStudent, **WITH_STUDENT)
    resumed = run(**WITH_STUDENT)
    embedded_by.clear()
    resumed.train()
    assert set(embedded_by) == {"conv7"}  # what soft3 said is known
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    straight = run(**WITH_STUDENT)
    straight.train()
    assert changed(resumed.encoder(), weights(straight.encoder())) == set()


@pytest.mark.usefixtures("few")
def test_a_student_learns_by_the_embeddings_of_its_own_run(run, stopped, embedded_by):
    stopped(0, learner=PixelStudent, **WITH_STUDENT, hebbian_lr=1e-3)
    (anew := run(**WITH_STUDENT, hebbian_lr=1e-2)).train()
    assert embedded_by.count("soft3") == 2
    seen = anew.split.pretraining
    teacher, again = (anew.model.embedder(anew.config, 2, len(seen)) for _ in range(2))
    kept = remembered_embeddings(anew, teacher)
    assert np.array_equal(kept, learn_embedding(again, pixels_of(anew), seen, 0.5, anew.config.seed, {}))
    made = zip(teacher.embedding.parameters(), again.embedding.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in made)


@pytest.mark.usefixtures("few")
def test_embeddings_that_were_damaged_or_never_kept(run, stopped, embedded_by):
    made = stopped(1, learner=PixelStudent, **WITH_STUDENT)
    path = made.checkpoint.with_name("embeddings.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    with pytest.raises(CheckpointError, match=r"embeddings\.pt: .*SHA-256 differs.*remove .*checkpoint\.pt"):
        run(**WITH_STUDENT).train()
    for number, earlier in enumerate(({"vectors": torch.zeros(2, 2)}, None), 2):  # of earlier versions
        path.unlink()
        if earlier is not None:
            write_checkpoint(path, earlier)
        stopped(1, learner=PixelStudent, **WITH_STUDENT)
        assert embedded_by.count("soft3") == number


@pytest.mark.usefixtures("few")
def test_a_student_that_diverges_begins_anew_with_a_smaller_rate(run):
    with pytest.raises(FloatingPointError, match=r"pixel student diverged .*--set student_lr=1e\+29"):
        run(**WITH_STUDENT, student_lr=1e30).train()
    again = run(**WITH_STUDENT)
    assert again.restore()["epoch"] == 0
    again.train()
    assert again.encoder().description.backbone == "soft3+conv7"


@pytest.mark.parametrize("chosen", [{"labels": "none"}, {"student_epochs": 0}])
@pytest.mark.usefixtures("few")
def test_there_is_no_student_without_labels_or_where_it_is_not_wanted(run, chosen):
    made = run(**WITH_STUDENT | chosen)
    made.train()
    assert made.encoder().description.backbone == "soft3"


def test_few_images_are_no_lesson_for_a_student(run, few, monkeypatch, caplog):
    monkeypatch.setattr(training.run, "FEWEST", 5_000)
    caplog.set_level("INFO")
    made = run(**WITH_STUDENT)
    made.train()
    assert made.encoder().description.backbone == "soft3"
    assert "no student learns from changed images: there are fewer than 5000" in caplog.text


def test_a_backbone_that_needs_no_more_learns_from_a_part_of_many_images(run, monkeypatch):
    made = run(backbone="soft3", rule="softhebb", recipe="best", labels="none")
    monkeypatch.setitem(BACKBONES, "soft3", replace(BACKBONES["soft3"], enough=50))
    made.pixels.seen.clear()
    learner = made.pretraining()
    drawn = positions_of(made, learner)
    assert len(set(drawn.tolist())) == 50
    assert set(drawn.tolist()) < set(made.split.pretraining.tolist())
    monkeypatch.setitem(BACKBONES, "soft3", replace(BACKBONES["soft3"], enough=1000))
    assert np.array_equal(positions_of(made, learner), made.split.pretraining)
