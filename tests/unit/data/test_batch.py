"""Batches on their way to a device."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch

from vavl.data.batch import ClipBatch, ModalityBatch, WeakView, pad_clips


@pytest.fixture
def batch(batches):
    """Return a batch with a weak view of one of its clips."""
    whole = batches.of(batches.clips("av av? a v"), fillers=1)
    return replace(whole, weak=WeakView(batches.of(batches.clips("av?")), torch.tensor([1])))


def tensors_of(part, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a batch and of the batches within it, by its place."""
    found = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, torch.Tensor):
            found[path + field.name] = value
        elif is_dataclass(value):
            found |= tensors_of(value, f"{path}{field.name}.")
    return found


@pytest.fixture
def pinning(monkeypatch):
    """Stand in for the driver, which a machine without a GPU has not; lists what it was asked to pin."""
    asked = []

    def pin(tensor):
        asked.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    return asked


def test_every_tensor_is_moved(batch):
    before, after = tensors_of(batch), tensors_of(batch.to(torch.device("meta")))
    assert {"audio.values", "video.is_real", "place", "weak.batch.audio.values", "weak.clip"} <= before.keys()
    assert {name: tensor.shape for name, tensor in after.items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert {tensor.device.type for tensor in after.values()} == {"meta"}


def test_on_a_cpu_nothing_is_copied(batch):
    before, after = tensors_of(batch), tensors_of(batch.to(torch.device("cpu")))
    assert all(after[name] is tensor for name, tensor in before.items())


def test_every_tensor_is_pinned_and_keeps_its_values(batch, pinning):
    before, after = tensors_of(batch), tensors_of(batch.pinned())
    assert len(pinning) == len(before) > 20
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
        assert after[name] is not tensor


def stored_as_halves(batch: ClipBatch) -> ClipBatch:
    """Return a batch with its frames as a float16 store holds them, each row with a normalization of its own."""

    def side(one: ModalityBatch) -> ModalityBatch:
        shape = (len(one.values), 1, one.values.shape[2])
        return replace(one, values=one.values.half(), mean=torch.randn(shape), std=torch.rand(shape) + 0.1)

    weak = batch.weak and replace(batch.weak, batch=stored_as_halves(batch.weak.batch))
    return replace(batch, audio=side(batch.audio), video=side(batch.video), weak=weak)


def test_halves_stay_halves_until_they_are_on_the_device(batch, pinning):
    """Every tensor of frames that is pinned, and so copied, has two bytes per number; normalized they have four."""
    halves = stored_as_halves(batch)
    arrived = halves.pinned().to(torch.device("cpu"))
    assert sum(tensor.dtype == torch.float16 for tensor in pinning) == 4
    assert tensors_of(arrived).keys() == tensors_of(batch).keys()
    for whole, found in ((halves, arrived), (halves.weak.batch, arrived.weak.batch)):
        for before, after in ((whole.audio, found.audio), (whole.video, found.video)):
            expected = (before.values.numpy().astype(np.float32) - before.mean.numpy()) / before.std.numpy()
            real = before.is_real.numpy()
            assert after.values.dtype == torch.float32
            np.testing.assert_array_equal(after.values.numpy()[real], expected[real])
            assert not after.values[~after.is_real].any()


def test_a_batch_without_a_weak_view_stays_without(batches, pinning):
    pinned = batches.of(batches.clips("av a")).pinned()
    assert pinned.weak is None
    assert isinstance(pinned.audio, ModalityBatch)


@pytest.mark.gpu
def test_pinned_memory_is_copied_without_waiting(batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pinned = batch.pinned()
    assert all(tensor.is_pinned() for tensor in tensors_of(pinned).values())
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = pinned.to(torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(tensor.cpu(), tensors_of(batch)[name]) for name, tensor in tensors_of(moved).items())


@pytest.mark.gpu
def test_batches_that_were_sent_are_received_whole(batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    sent = batch.sent(device, torch.cuda.Stream(device))
    received = sent.to(device)
    assert received.copied is None
    assert all(torch.equal(one.cpu(), tensors_of(batch)[name]) for name, one in tensors_of(received).items())


def test_a_batch_that_was_sent_is_waited_for_by_the_stream_that_reads_it(batch, monkeypatch):
    class Stream:
        waited, readers = [], []

        def wait_event(self, event):
            self.waited.append(event)

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, by: by.readers.append(id(tensor)))
    stream, before = Stream(), tensors_of(batch)
    received = replace(batch, copied="copies are there").to(torch.device("cuda"))
    assert stream.waited == ["copies are there"]
    assert sorted(stream.readers) == sorted(map(id, before.values()))
    assert all(tensors_of(received)[name] is one for name, one in before.items())
    assert received.copied is None


def test_the_host_knows_whether_anything_is_padded():
    def batch_of(*lengths, multiple=1):
        clips = [np.ones((length, 2), np.float32) for length in lengths]
        return pad_clips(clips, list(range(len(clips))), 2, multiple)

    for side, frames, is_padded in (
        (batch_of(5, 5), 5, False),
        (batch_of(5, 4), 5, True),
        (batch_of(5, 4, multiple=32), 32, True),
        (batch_of(33, 64, multiple=32), 64, True),
        (batch_of(1, 1, multiple=32), 1, False),
        (batch_of(), 1, False),
    ):
        assert (side.values.shape[1], side.is_padded) == (frames, is_padded)
        assert side.is_real.all().item() is not is_padded
        assert (side.mask is None) is not is_padded
