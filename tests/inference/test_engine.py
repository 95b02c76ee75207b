"""Many images through one program: in order, read ahead, never more than a few in memory."""

import threading
import time

import jax
import numpy as np
import pytest

from tpgdiff_jax.inference.engine import WriteBehind, reason, stream
from tpgdiff_jax.reporting.errors import UserError

OUT_OF_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


def in_chunks(count, size):
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def all_together(items):
    return [range(len(items))] if items else []


def doubled(items):
    return lambda: [2 * item for item in items]


def test_results_come_in_order_whatever_the_batches():
    def odd_first(items):
        odd = [n for n, item in enumerate(items) if item % 2]
        return [odd, [n for n in range(len(items)) if n not in odd]]

    found = list(stream(in_chunks(10, 4), lambda source: source, odd_first, doubled))
    assert [outcome.source for outcome in found] == list(range(10))
    assert [outcome.result for outcome in found] == list(range(0, 20, 2))
    assert list(stream([], int, all_together, doubled)) == []


def test_a_batch_that_does_not_fit_is_halved_until_an_image_fails_alone():
    started = []

    def start(items):
        started.append(list(items))
        if len(items) > 2:  # as where a device finds out at once
            raise OUT_OF_MEMORY

        def finish():
            if 5 in items:  # and where it finds out while it works
                raise MemoryError
            return [2 * item for item in items]

        return finish

    found = list(stream([range(8)], int, all_together, start))
    assert started == [list(range(8)), [0, 1, 2, 3], [0, 1], [2, 3], [4, 5, 6, 7], [4, 5], [4],
                       [5], [6, 7]]  # fmt: skip
    assert [outcome.result for outcome in found] == [0, 2, 4, 6, 8, None, 12, 14]
    assert reason(found[5].error) == "needs more memory than there is; try a smaller --tile"
    assert reason(OUT_OF_MEMORY, "").startswith("needs more memory than the device has")


@pytest.mark.parametrize("finds_out", ["when it begins", "while it works"])
def test_an_image_that_fits_alone_does_not_fail_for_the_batch_beside_it(finds_out):
    memory = []  # what is begun and not fetched; two do not fit

    def start(items):
        memory.append(items)
        is_full = len(memory) > 1
        if is_full and finds_out == "when it begins":
            memory.remove(items)
            raise MemoryError

        def finish():
            time.sleep(0.02)  # until then the next one begins
            memory.remove(items)
            if is_full:
                raise OUT_OF_MEMORY
            return [2 * item for item in items]

        return finish

    found = list(stream(in_chunks(6, 1), int, all_together, start))
    assert [outcome.error for outcome in found] == [None] * 6
    assert [outcome.result for outcome in found] == [0, 2, 4, 6, 8, 10]


def test_what_cannot_be_read_fails_alone_and_a_fault_of_ours_is_raised():
    def read(source):
        if source == 1:
            raise UserError("no picture")
        if source == 2:
            raise OSError(5, "Input/output error")
        return source

    found = list(stream([range(4)], read, all_together, doubled))
    assert [outcome.result for outcome in found] == [0, None, None, 6]
    assert [reason(found[n].error) for n in (1, 2)] == [
        "no picture",
        "cannot be read: Input/output error",
    ]
    with pytest.raises(ZeroDivisionError):
        list(stream([range(4)], lambda source: 1 // source, all_together, doubled))

    def broken(items):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        list(stream([range(4)], int, all_together, broken))


def test_files_are_read_while_the_device_works():
    """Of four batches only the first is waited for: reading and computing overlap."""
    reading, computing = [], []

    def read(source):
        reading.append((time.perf_counter(), source))
        time.sleep(0.05)
        return source

    def start(items):
        computing.append(time.perf_counter())

        def finish():
            time.sleep(0.1)
            return items

        return finish

    assert len(list(stream(in_chunks(8, 2), read, all_together, start))) == 8
    read_at = {source: when for when, source in reading}
    assert read_at[2] < computing[0] + 0.1
    assert read_at[4] < computing[1]


def test_the_seconds_of_a_batch_are_its_own():
    """Not those in which the next one's program is compiled, nor what is read late."""

    def start(items):
        time.sleep(0.3 * (items[0] == 1))  # compiles
        return lambda: time.sleep(0.05) or items

    def read(source):
        time.sleep(0.3 * (source == 3))
        return source

    began = time.perf_counter()
    found = list(stream(in_chunks(4, 1), read, all_together, start))
    wall = time.perf_counter() - began
    seconds = [outcome.seconds for outcome in found]
    assert seconds[1] > 0.25  # for 0.05 of its 0.35 the device still worked on the first
    assert max(seconds[0], *seconds[2:]) < 0.3
    assert sum(seconds) <= wall


def test_memory_holds_a_few_chunks_however_long_the_list():
    alive, most = set(), []

    class Item:
        def __init__(self, source):
            alive.add(id(self))
            self.source = source
            most.append(len(alive))

        def __del__(self):
            alive.discard(id(self))

    def start(items):
        sources = [item.source for item in items]
        return lambda: sources

    taken = 0
    for outcome in stream(in_chunks(200, 4), Item, all_together, start):
        assert outcome.result == taken
        taken += 1
    assert taken == 200
    assert max(most) <= 24


def test_a_reader_that_is_left_leaves_no_thread():
    before = threading.active_count()
    images = stream(in_chunks(1000, 4), np.int64, all_together, doubled)
    assert next(images).result == 0
    images.close()
    assert threading.active_count() == before


def test_results_are_written_behind_and_filed_in_order():
    written, filed, gates = [], [], [threading.Event() for _ in range(6)]

    def write(number):
        gates[number].wait(5)
        written.append(number)

    def file(number, writing):
        if writing is not None:
            writing.result()
        filed.append(number)

    with WriteBehind(write, file, most=3) as writer:
        for number in (0, 1, 2):
            writer.put(number, number)  # returns while nothing is written
        assert written == []
        gates[1].set()
        gates[0].set()
        writer.put(3, 3)  # more than three wait for the oldest
        assert filed[:1] == [0]
        writer.put("nothing to write")
        for gate in gates:
            gate.set()
    assert filed == [0, 1, 2, 3, "nothing to write"]


def test_a_write_that_fails_is_met_where_it_is_filed():
    def write(number):
        if number == 1:
            raise OSError(28, "No space left on device")

    def put_all(writer):
        with writer:
            for number in range(4):
                writer.put(number, number)
                time.sleep(0.01)

    filed = []

    def file(number, writing):
        writing.result()
        filed.append(number)

    with pytest.raises(OSError, match="No space left"):
        put_all(WriteBehind(write, file))
    assert filed == [0]
