"""Teachers: which are taken, which are refused, and that they stay as they are."""

import re

import pytest
import torch
from cut_runs import assert_resumes_exactly, assert_same
from picture_files import write_pictures
from tiny_runs import epochs_of, setup, train

import training
from training.objective import load_teacher, split_name


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory):
    """A finished run of the float network."""
    return train(tmp_path_factory.mktemp("teacher") / "run", arch="tiny", epochs=6, lr=0.01, batch_size=16).run_dir


def test_a_teacher_is_a_checkpoint_a_run_or_plain_weights(tmp_path, teacher_dir):
    model, _ = training.load_model(teacher_dir)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    best = teacher_dir / "best.pt"
    for name in (teacher_dir, best, f"tiny:{best}", f"tiny:{teacher_dir}", f"tiny:{tmp_path / 'plain.pt'}"):
        session = setup(tmp_path / "run", teacher=str(name))
        teacher = session.teacher
        assert_same(dict(teacher.state_dict()), dict(model.state_dict()))
        assert not teacher.training
        assert not any(p.requires_grad for p in teacher.parameters())


def test_a_path_may_have_a_colon(tmp_path, teacher_dir):
    path = tmp_path / "a:b.pt"
    path.write_bytes((teacher_dir / "best.pt").read_bytes())
    assert split_name(str(path)) == (None, str(path))
    assert split_name(f"tiny:{path}") == ("tiny", str(path))


def test_a_student_learns_from_the_teacher_alone(tmp_path, teacher_dir):
    """Without one right label: the data's are shuffled."""
    session = setup(tmp_path / "run", teacher=str(teacher_dir), epochs=6, lr=0.01, batch_size=16)
    before = {name: value.clone() for name, value in session.teacher.state_dict().items()}
    labels = session.data.train.labels
    labels.copy_(labels[torch.randperm(len(labels))])
    training.fit(session)
    assert session.best_acc1 > 80
    assert_same(dict(session.teacher.state_dict()), before)
    assert not session.teacher.training


def test_labels_have_the_share_that_the_teacher_leaves(tmp_path, teacher_dir):
    flags = {"teacher": str(teacher_dir), "epochs": 1}
    losses = {}
    for weight in (0.0, 1.0):
        train(tmp_path / str(weight), distill_weight=weight, **flags)
        losses[weight] = epochs_of(tmp_path / str(weight))[0]["train"]["loss"]
    train(tmp_path / "none", epochs=1)
    assert losses[0.0] == epochs_of(tmp_path / "none")[0]["train"]["loss"]
    assert losses[1.0] != losses[0.0]


def test_it_resumes_exactly_and_the_teacher_may_move(tmp_path, teacher_dir):
    assert_resumes_exactly(tmp_path, teacher=str(teacher_dir), mixup=0.2, batch_size=100, lr_schedule="step")
    moved = tmp_path / "moved.pt"
    moved.write_bytes((teacher_dir / "best.pt").read_bytes())
    config = training.config_from_flags({"resume": str(tmp_path / "uncut"), "epochs": 5, "teacher": str(moved)})
    assert config.teacher == str(moved)


def test_what_does_not_fit_is_refused(tmp_path, teacher_dir):
    best = teacher_dir / "best.pt"

    def refused(message, error=ValueError, **flags):
        with pytest.raises(error, match=message) as caught:
            setup(tmp_path / "run", **flags)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()

    quoted = re.escape(repr(str(best)))
    refused(f"teacher {quoted} is 'tiny', not 'lenet5'; write --teacher tiny:", teacher=f"lenet5:{best}")
    refused("unknown network 'tinny': did you mean 'tiny'", teacher=f"tinny:{best}")
    refused("there is no checkpoint", FileNotFoundError, teacher=str(tmp_path / "none.pt"))
    refused("there is no checkpoint", FileNotFoundError, teacher=f"tiny:{tmp_path / 'none.pt'}")
    refused(
        rf"teacher {quoted} was trained with another normalization .*\(0.3053,\).* there, .*\(0.5,\).* here",
        teacher=str(best),
        normalize="half",
    )
    refused(
        r"another input size than the data have: \(1, 8, 8\) there, \(1, 9, 9\) here", teacher=str(best), img_size=9
    )
    write_pictures(tmp_path / "pictures", size=(8, 8))
    flags = {"dataset": "imagefolder", "data_dir": str(tmp_path / "pictures"), "normalize": "digits"}
    refused(r"other classes.*: 10 there, 2 here, 0, 1, 2, 3, 4 differ", teacher=str(best), batch_size=2, **flags)


def test_plain_weights_need_a_network_that_they_fit(tmp_path, teacher_dir):
    model, _ = training.load_model(teacher_dir)
    plain = tmp_path / "plain.pt"
    torch.save(model.state_dict(), plain)
    with pytest.raises(ValueError, match=r"holds plain weights; say of which network: --teacher ARCH:"):
        setup(tmp_path / "run", teacher=str(plain))
    with pytest.raises(ValueError, match="holds another architecture"):
        setup(tmp_path / "run", teacher=f"lenet5:{plain}")
    assert load_teacher(f"tiny:{plain}", setup(tmp_path / "run").data, torch.device("cpu"))
