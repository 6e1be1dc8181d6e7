from threading import Condition, Thread

from neuron_lib.engine.lanes import Lane


def lane() -> Lane[str]:
    return Lane("a job", Condition())


def taken(jobs: Lane[str], count: int) -> list[int]:
    with jobs._changed:
        return [jobs.take()[0] for _ in range(count)]


def put(jobs: Lane[str], request: int, size: int, caller: str = "") -> None:
    with jobs._changed:
        jobs.put(request, f"job {request}", size=size, caller=caller)


def test_the_smallest_comes_first_and_of_equal_ones_the_oldest() -> None:
    jobs = lane()
    for request, size in enumerate((1_000_000, 500, 20, 500)):
        put(jobs, request, size)
    assert taken(jobs, 4) == [2, 1, 3, 0]


def test_the_many_jobs_of_one_principal_do_not_hold_up_those_of_another() -> None:
    jobs = lane()
    for request in range(1, 5):
        put(jobs, request, 100, "many")
    put(jobs, 5, 110, "one")
    put(jobs, 6, 110)
    assert taken(jobs, 3) == [1, 5, 6]
    jobs.drop(2)
    jobs.drop(3)
    put(jobs, 7, 100, "many")  # the second one that waits
    put(jobs, 8, 150)
    assert taken(jobs, 1) == [8]


def test_the_oldest_is_overtaken_only_so_often() -> None:
    jobs = lane()
    put(jobs, 1, 1 << 20)
    put(jobs, 2, 1 << 20)
    for request in range(3, 13):
        put(jobs, request, 10)
    assert taken(jobs, 12) == [3, 4, 5, 1, 6, 7, 8, 2, 9, 10, 11, 12]


def test_the_smallest_that_waits_is_known() -> None:
    jobs = lane()
    smallest = [jobs.smallest]
    for request, size in ((1, 30), (2, 20)):
        put(jobs, request, size)
        smallest.append(jobs.smallest)
    jobs.drop(2)
    assert [*smallest, jobs.smallest] == [None, 30, 20, 30]


def test_a_dropped_job_is_never_taken_and_one_of_the_same_number_may_come_again() -> None:
    jobs = lane()
    put(jobs, 1, 5)
    put(jobs, 2, 7)
    assert jobs.drop(1)
    assert not jobs.drop(1)
    assert taken(jobs, 1) == [2]


def test_a_job_that_is_put_back_is_as_large_as_it_is_said_to_be_then() -> None:
    jobs = lane()
    put(jobs, 1, 5)
    taken(jobs, 1)
    put(jobs, 2, 7)
    put(jobs, 1, 9)
    put(jobs, 3, 8)
    assert taken(jobs, 3) == [2, 3, 1]


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
