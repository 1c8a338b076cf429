"""Training loops that go on, after a run was stopped anywhere, exactly where its checkpoint was.

MMEngine's loops restore weights and counters. These restore the data and the randomness as well:
batches that were trained already are passed over without being loaded, and the random numbers of an
iteration and of a sample follow from their place in the run (:mod:`mmvitconv.engine.randomness`).
So a run gives the same weights however often it is killed, and with any number of workers.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import count, islice
from typing import Any

from mmengine.dist import get_rank
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmvitconv.engine.randomness import derive_seed, seed_process
from mmvitconv.errors import UserError
from mmvitconv.registry import LOOPS

VALIDATED_AT = "iter_of_last_validation"  # message hub: the iteration of the last validation


class SeededDataset(Dataset):
    """A dataset whose samples are drawn with seeds of their own.

    Everything else is the wrapped dataset's: attributes are read from it and set on it, since hooks
    change datasets during training.

    Args:
        dataset: The dataset; it is asked for the second item of each index.
    """

    def __init__(self, dataset: Dataset) -> None:
        vars(self)["dataset"] = dataset

    def __getattr__(self, name: str) -> Any:
        if "dataset" not in vars(self):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: tuple[int, Any]) -> Any:
        """Load the sample ``index[1]`` with the random numbers of the seed ``index[0]``."""
        seed, item = index
        seed_process(seed, devices=False)
        return self.dataset[item]

    def __getitems__(self, indices: Sequence[tuple[int, Any]]) -> list[Any]:
        """Load a batch; PyTorch would take the wrapped dataset's own method, without seeds."""
        return [self[index] for index in indices]


class PlacedBatchSampler:
    """A batch sampler that gives each index the seed of its place and can pass over batches.

    Args:
        batch_sampler: Yields batches of indices of any kind; finite or endless.

    Attributes:
        seed: Seed of the run.
        round: Number of the round, from 0, a part of the seeds.
        skip: Batches to pass over, counted down.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler
        self.seed = 0
        self.round = 0
        self.skip = 0

    def __getattr__(self, name: str) -> Any:
        if "batch_sampler" not in vars(self):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    def __len__(self) -> int:
        """Return the number of batches of a round, including those passed over."""
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        """Iterate the batches of a round as lists of seed and index."""
        rank = get_rank()
        for number, batch in enumerate(self.batch_sampler):
            if self.skip > 0:
                self.skip -= 1
                continue
            yield [
                (derive_seed(self.seed, "sample", rank, self.round, number, place), index)
                for place, index in enumerate(batch)
            ]


class _NotYetStarted:
    """Stands in for a loader that must not start its workers yet."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Resumable(BaseLoop):
    """What both loops share."""

    def _prepare_loader(self, runner: Any, dataloader: DataLoader | dict) -> DataLoader:
        """Build the loader and give its batches their places."""
        settings = runner._randomness_cfg
        self._differs_by_rank = settings.get("diff_rank_seed", False)
        # a seed that the config gives to the sampler itself stays
        self._own_sampler_seed = isinstance(dataloader, DataLoader) or any(
            isinstance(dataloader.get(name), dict) and "seed" in dataloader[name]
            for name in ("sampler", "batch_sampler")
        )
        if not isinstance(dataloader, DataLoader):
            dataloader = runner.build_dataloader(
                dataloader, seed=runner.seed, diff_rank_seed=self._differs_by_rank
            )
        self._is_placed = not (
            dataloader.batch_sampler is None or isinstance(dataloader.dataset, IterableDataset)
        )
        if not self._is_placed:
            print_log(
                "the training data are a stream without indices or batches: after a stop they are "
                "loaded again up to the place, and their random changes may differ",
                logger="current",
                level=logging.WARNING,
            )
            return dataloader
        # DataLoader guards these attributes against changes after its samplers were built from
        # them; here they are only wrapped.
        for name, wrap in (("dataset", SeededDataset), ("batch_sampler", PlacedBatchSampler)):
            object.__setattr__(dataloader, name, wrap(getattr(dataloader, name)))
        return dataloader

    def _round(self, number: int, skip: int) -> Iterator[Any]:
        """Yield the batches of a round, but for those passed over.

        Args:
            number: Number of the round, from 0: a part of the samples' seeds.
            skip: Batches to pass over.
        """
        if not self._is_placed:
            yield from islice(self.dataloader, skip, None)
            return
        batches = self.dataloader.batch_sampler
        # after resuming, as the seed may come from the checkpoint
        batches.seed, batches.round, batches.skip = self._common_seed, number, skip
        for sampler in self._samplers():
            if not self._own_sampler_seed and isinstance(getattr(sampler, "seed", None), int):
                sampler.seed = self._common_seed
        yield from self.dataloader

    def _samplers(self) -> list[Any]:
        """Everything that may decide about the order of the samples."""
        inside = getattr(self.dataloader.batch_sampler, "sampler", None)
        return [self.dataloader.sampler, inside]

    @property
    def _common_seed(self) -> int:
        """Seed of the run, the same on all ranks."""
        return self.runner.seed - (get_rank() if self._differs_by_rank else 0)

    def _seed(self, purpose: str) -> None:
        """Make the random numbers to come independent of those drawn before."""
        # runner.seed differs by rank where the config wants that
        seed_process(derive_seed(self.runner.seed, purpose, self._iter))

    def _call_before_train(self) -> None:
        """Call the hooks; MMEngine's counters of the last iteration stay until the next one.

        Its hook sets them to the iteration to come, and a checkpoint that is written before that (a
        missed validation that turns out to be the best) would hold other numbers.
        """
        hub = self.runner.message_hub
        names = ("epoch", "iter") if self._iter > 0 else ()
        resumed = {name: hub.get_info(name) for name in names if name in hub.runtime_info}
        self.runner.call_hook("before_train")
        hub.update_info_dict(resumed)

    def _validate(self) -> None:
        """Validate, and note it where the next checkpoint keeps it."""
        # before, as the hook that saves the best checkpoint runs inside
        self.runner.message_hub.update_info(VALIDATED_AT, self._iter)
        self._seed("validation")
        self.runner.val_loop.run()

    def _validate_if_missed(self) -> None:
        """Validate first where the run was stopped between a checkpoint and its validation.

        That is the normal case: checkpoints are written before the validation that is due then, and
        what it found (curves, the best checkpoint) is not in them.
        """
        self._decide_current_val_interval()
        done = self.runner.message_hub.runtime_info.get(VALIDATED_AT)
        if self._iter > 0 and self._is_validation_due() and done != self._iter:
            print_log("validating first: the run was stopped before or in it", logger="current")
            self._validate()

    @abstractmethod
    def _is_validation_due(self) -> bool:
        """Return whether the run validates at the current place."""


@LOOPS.register_module()
class ResumableEpochLoop(_Resumable, EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop`` with exact resuming, also inside an epoch.

    Args:
        runner: The runner.
        dataloader: Loader or its config; its dataset must have indices.
        **kwargs: Arguments of ``mmengine.runner.EpochBasedTrainLoop``.

    Examples:
        >>> train_cfg = dict(type="mmvitconv.ResumableEpochLoop", max_epochs=12)
    """

    def __init__(self, runner: Any, dataloader: DataLoader | dict, **kwargs) -> None:
        EpochBasedTrainLoop.__init__(
            self, runner, self._prepare_loader(runner, dataloader), **kwargs
        )

    def run(self) -> Any:
        """Train to the end.

        Returns:
            The model.
        """
        self._call_before_train()
        if self._iter == self._epoch * len(self.dataloader):  # not inside an epoch
            self._validate_if_missed()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._is_validation_due():
                self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_epoch(self) -> None:
        """Train an epoch, or the rest of the one that was interrupted."""
        done = self._iter - self._epoch * len(self.dataloader)
        if not 0 <= done <= len(self.dataloader):
            print_log(
                f"iteration {self._iter} does not lie in epoch {self._epoch + 1} of "
                f"{len(self.dataloader)} iterations (another batch size, number of processes or "
                "data set than before): the epoch starts from its beginning",
                logger="current",
                level=logging.WARNING,
            )
            done = 0
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        # closed where an error ends the epoch, so that its workers end with it
        with closing(self._round(self._epoch, skip=done)) as batches:
            for index, data_batch in enumerate(batches, start=done):
                self.run_iter(index, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train one batch with the random numbers of its iteration.

        Args:
            idx: Number of the batch in the epoch, from 0.
            data_batch: What the loader gave.
        """
        self._seed("iteration")
        super().run_iter(idx, data_batch)

    def _is_validation_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        )


@LOOPS.register_module()
class ResumableIterLoop(_Resumable, IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop`` with exact resuming that does not load what it passes over.

    Args:
        runner: The runner.
        dataloader: Loader or its config; its dataset must have indices. When its sampler ends, a
            new round begins.
        **kwargs: Arguments of ``mmengine.runner.IterBasedTrainLoop``.

    Raises:
        UserError: While training, when the data have no batch.

    Examples:
        >>> train_cfg = dict(type="mmvitconv.ResumableIterLoop", max_iters=160000)
    """

    def __init__(self, runner: Any, dataloader: DataLoader | dict, **kwargs) -> None:
        loader = self._prepare_loader(runner, dataloader)
        # MMEngine's loop starts the workers at once: before hooks could change the dataset and
        # before it is known where the run goes on
        IterBasedTrainLoop.__init__(self, runner, _NotYetStarted(loader.dataset), **kwargs)
        self.dataloader = loader

    def run(self) -> Any:
        """Train to the end.

        Returns:
            The model.
        """
        self._call_before_train()
        self.runner.call_hook("before_train_epoch")  # the whole run counts as one epoch
        self._validate_if_missed()
        with closing(self._endless_batches(skip=self._iter)) as self.dataloader_iterator:
            while self._iter < self._max_iters and not self.stop_training:
                self.runner.model.train()
                self.run_iter(next(self.dataloader_iterator))
                self._decide_current_val_interval()
                if self._is_validation_due():
                    self._validate()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, data_batch: Any) -> None:
        """Train one batch with the random numbers of its iteration.

        Args:
            data_batch: What the loader gave.
        """
        self._seed("iteration")
        super().run_iter(data_batch)

    def _endless_batches(self, skip: int) -> Iterator[Any]:
        """Yield batches, round after round, but for the first ``skip``."""
        for number in count():
            if number > 0:
                for sampler in self._samplers():
                    if hasattr(sampler, "set_epoch"):
                        sampler.set_epoch(number)
            batches = 0
            for data_batch in self._round(number, skip):
                batches += 1
                yield data_batch
            left = self.dataloader.batch_sampler.skip if self._is_placed else 0
            if batches == 0 and left == skip:
                raise UserError(
                    "the training data have no batch: the dataset is empty, or smaller than one "
                    "batch with drop_last=True; look at train_dataloader"
                )
            skip = left

    def _is_validation_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )
