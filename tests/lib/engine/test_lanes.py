from threading import Condition, Thread

from neuron_lib.engine.lanes import Lane


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lane(clock: Time | None = None) -> Lane[str]:
    return Lane("a job", Condition(), clock=clock or Time())


def taken(jobs: Lane[str], count: int) -> list[int]:
    with jobs._changed:
        return [jobs.take()[0] for _ in range(count)]


def put(jobs: Lane[str], request: int, size_bytes: int) -> None:
    with jobs._changed:
        jobs.put(request, f"job {request}", size_bytes=size_bytes)


def test_the_smallest_comes_first_and_of_equal_ones_the_oldest() -> None:
    jobs = lane()
    for request, size in enumerate((1_000_000, 500, 20, 500)):
        put(jobs, request, size)
    assert taken(jobs, 4) == [2, 1, 3, 0]


def test_what_has_waited_long_goes_before_what_is_smaller() -> None:
    time = Time()
    jobs = lane(time)
    put(jobs, 1, 1 << 20)
    time.now = 15
    put(jobs, 2, 10)
    time.now = 17
    put(jobs, 3, 10)
    assert taken(jobs, 3) == [2, 1, 3]


def test_a_dropped_job_is_never_taken_and_one_of_the_same_number_may_come_again() -> None:
    jobs = lane()
    put(jobs, 1, 5)
    put(jobs, 2, 7)
    assert jobs.drop(1)
    assert not jobs.drop(1)
    assert taken(jobs, 1) == [2]


def test_a_lane_says_what_it_has_done_and_what_not() -> None:
    jobs = lane()
    put(jobs, 1, 5)
    put(jobs, 2, 7)
    assert (jobs.done, jobs.waiting, jobs.current) == (0, 2, None)
    taken(jobs, 1)
    assert (jobs.done, jobs.waiting, jobs.current) == (0, 2, 1)
    jobs.leave()
    jobs.leave()
    assert (jobs.done, jobs.waiting, jobs.current) == (1, 1, None)


def test_a_thread_waits_for_a_job() -> None:
    jobs, found = lane(), list[int]()
    thread = Thread(target=lambda: found.extend(taken(jobs, 1)))
    thread.start()
    put(jobs, 7, 1)
    thread.join(60)
    assert found == [7]
