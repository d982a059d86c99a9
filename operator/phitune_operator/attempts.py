"""The attempts of a job: its gangs, one after the other. Part of `plan`, and as pure.

An attempt takes its number, is created, followed, judged once, and cleared away before the next one starts.
"""

from datetime import timedelta

from phitune_operator import names
from phitune_operator.draft import Draft
from phitune_operator.fields import seconds
from phitune_operator.kinds import PYTORCHJOB, Kind, Object, is_terminating
from phitune_operator.observed import Create, Delete, Observed
from phitune_operator.policies import gang_end, restart
from phitune_operator.policies.gang_end import End, Verdict
from phitune_operator.policies.half_placed import HALF_PLACED, apart, how_it_waits
from phitune_operator.policies.stall import how_it_stalled
from phitune_operator.render.pytorchjob import pytorchjob
from phitune_operator.render.subject import Subject
from phitune_operator.status import condition_of, duration_text, flipped_at, is_true

POLL = 5.0
"""Seconds between two looks at a gang that runs: how fresh the progress in status is."""
RECHECK = 10.0
"""Seconds between two looks at what no watch tells: a claim of the user's, nodes, why pods are not made."""
CREATING, STOPPING = "Creating", "Stopping"


def hear_rank_zero(seen: Observed, draft: Draft) -> None:
    """Take over how far rank 0 is, and what it said when it ended: where it saved its work."""
    draft.take_progress(seen.progress)
    draft.take_last_words(seen.last_words)


def train(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Start a gang, follow it, and judge its end."""
    draft.set("attempt", seen.attempt)
    if is_true(seen.status, names.CONDITION_RESTARTING) or was_suspended(seen):
        follow_up(seen, subject, draft)
    elif seen.attempt == 0:
        start_attempt(seen, subject, draft)
    elif seen.gang is None and condition_of(seen.status, names.CONDITION_RUNNING).get("reason") == CREATING:
        create_gang(seen, subject, draft)
    elif seen.gang is None or is_terminating(seen.gang):
        message = f"PyTorchJob {names.pytorchjob(subject.name, seen.attempt)} was deleted"
        judge(seen, draft, End(verdict=Verdict.DISRUPTED, reason="GangDeleted", message=message))
    elif runs_another_image(seen.gang, subject.image) and any(pod.bad_image for pod in seen.gang_pods):
        message = f"spec.image is now {subject.image}"
        judge(seen, draft, End(verdict=Verdict.DISRUPTED, reason="ImageChanged", message=message))
    else:
        follow_or_judge(seen, seen.gang, draft)


def follow_or_judge(seen: Observed, gang: Object, draft: Draft) -> None:
    """Say how the gang does, or how it ended."""
    end = gang_end.how_it_ended(gang, seen.gang_pods, num_pods=seen.spec.resources.nodes, now=seen.now)
    if end is None:
        end = how_it_waits(
            seen.gang_pods,
            num_pods=seen.spec.resources.nodes,
            refused=seen.refusal.message if seen.refusal else "",
            now=seen.now,
            grace=seen.settings.placement_grace,
        )
    if end is None:
        limit = timedelta(seconds=seconds(seen.spec.run_policy.stall_timeout))
        end = how_it_stalled(seen.gang_pods, seen.progress, silence=seen.silence, limit=limit)
    if end is None:
        follow(seen, draft)
    else:
        judge(seen, draft, end)


def was_suspended(seen: Observed) -> bool:
    """Whether the gang was stopped for a suspension and nothing has started since."""
    condition = condition_of(seen.status, names.CONDITION_SUSPENDED)
    return condition.get("status") == "True" or condition.get("reason") == STOPPING


def leave_suspension(draft: Draft) -> None:
    """Say that the job goes on, if it was suspended."""
    if draft.condition(names.CONDITION_SUSPENDED) and draft.set_condition(
        names.CONDITION_SUSPENDED, False, "Resumed", "spec.runPolicy.suspend is false"
    ):
        draft.announce("Resumed", "goes on from its last checkpoint")


def follow_up(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Clear away an attempt that is over; start the next when nothing of it runs and the pause is past."""
    hear_rank_zero(seen, draft)
    for gang in seen.gangs:
        clear_away(draft, PYTORCHJOB, gang)
    if seen.gangs or any(pod.is_live for pod in seen.gang_pods):
        draft.look_again(POLL)
        return
    wait = timedelta()
    if is_true(seen.status, names.CONDITION_RESTARTING):
        wait = restart.wait_left(
            ended_at=flipped_at(seen.status, names.CONDITION_RESTARTING),
            pause=pause_before_next(seen, draft),
            now=seen.now,
        )
    if wait:
        draft.look_again(wait)
    else:
        start_attempt(seen, subject, draft)


def pause_before_next(seen: Observed, draft: Draft) -> timedelta:
    """How long to wait after the end that the condition Restarting tells of."""
    condition = draft.condition(names.CONDITION_RESTARTING)
    if condition.get("reason") in gang_end.FAULT_REASONS:
        return restart.pause_after_fault(counted=int(draft.status.get("restartsCounted") or 0))
    pause = restart.pause_after_disruption(in_a_row=disruptions_in_a_row(draft))
    if condition.get("reason") == HALF_PLACED:
        return apart(pause, uid=seen.uid, attempt=seen.attempt)
    return pause


def disruptions_in_a_row(draft: Draft) -> int:
    """How many disruptions there were since the newest checkpoint was saved."""
    known = draft.status.get("disruptions") or {}
    return int(known.get("count") or 0) if known.get("checkpointStep") == saved_step(draft) else 0


def saved_step(draft: Draft) -> int:
    """Optimizer steps done in the newest checkpoint; 0 if there is none."""
    return int((draft.status.get("lastCheckpoint") or {}).get("step") or 0)


def start_attempt(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Take the next number, then create the gang of that name."""
    attempt = seen.attempt + 1
    draft.set("attempt", attempt)
    draft.set("restarts", attempt - 1)
    draft.status.setdefault("restartsCounted", 0)
    draft.stamp("startTime")
    if draft.condition(names.CONDITION_RESTARTING):
        draft.set_condition(names.CONDITION_RESTARTING, False, "Restarted", f"attempt {attempt} follows")
    leave_suspension(draft)
    draft.set_condition(names.CONDITION_RUNNING, False, CREATING, f"attempt {attempt} is being created")
    draft.announce(
        "GangCreated",
        f"attempt {attempt}: {subject.num_nodes} pod(s) x {subject.processes_per_node} process(es); follow: "
        f"kubectl logs -f -n {subject.namespace} -l {names.LABEL_JOB}={subject.name},{names.LABEL_RANK}=0 "
        "(ends with this attempt)",
    )
    draft.set("phase", "Pending" if attempt == 1 else "Restarting")
    draft.do(Create.of(pytorchjob(subject, attempt)))


def create_gang(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Create the gang whose number is taken already."""
    draft.do(Create.of(pytorchjob(subject, seen.attempt)))


def follow(seen: Observed, draft: Draft) -> None:
    """Say how a gang does that has not ended."""
    pods, num_nodes = seen.gang_pods, seen.spec.resources.nodes
    ready = sum(pod.is_ready or pod.has_succeeded for pod in pods)
    if ready == num_nodes:
        draft.set_condition(names.CONDITION_RUNNING, True, "Training", f"all {ready} pod(s) run")
        evaluates = seen.progress is not None and seen.progress.state in ("baseline", "evaluating")
        draft.set("phase", "Evaluating" if evaluates else "Running")
        draft.look_again(POLL)
    else:
        waiting = next((pod.unschedulable for pod in pods if pod.unschedulable), "")
        message = f"{ready} of {num_nodes} pod(s) run" + (f"; {waiting}" if waiting else "")
        draft.set_condition(
            names.CONDITION_RUNNING, False, "Unschedulable" if waiting else "Starting", message
        )
        draft.look_again(POLL)
    draft.take_progress(seen.progress)


def judge(seen: Observed, draft: Draft, end: End) -> None:
    """Write down how an attempt ended, once, and what follows from it."""
    draft.take_last_words(seen.last_words)
    if end.verdict is Verdict.SUCCEEDED:
        succeed(draft, end)
        return
    draft.record_failure(end.reason, end.message, end.pod, attempt=seen.attempt)
    counted = int(seen.status.get("restartsCounted") or 0)
    limit = seen.spec.run_policy.restart_limit
    if end.verdict is Verdict.USER_ERROR:
        draft.fail(end.reason, end.message)
    elif end.verdict is Verdict.FAULT and restart.is_budget_spent(counted=counted, limit=limit):
        draft.fail("RestartLimit", f"failed after {counted} restart(s) (restartLimit {limit}): {end.message}")
    else:
        start_over(seen, draft, end, counted)


def succeed(draft: Draft, end: End) -> None:
    """End the job as succeeded."""
    draft.set("phase", "Succeeded")
    draft.stamp("completionTime")
    draft.set("failure", None)
    draft.set_condition(names.CONDITION_RUNNING, False, "Completed", end.message)
    if draft.set_condition(names.CONDITION_SUCCEEDED, True, end.reason, end.message):
        run = (draft.status.get("artifacts") or {}).get("run")
        draft.announce("Succeeded", end.message + (f"; results are in {run} on the volume" if run else ""))


def start_over(seen: Observed, draft: Draft, end: End, counted: int) -> None:
    """Begin a restart: count it if it is the job's fault, then clear the gang away."""
    if end.verdict is Verdict.FAULT:
        draft.set("restartsCounted", counted + 1)
    else:
        count = disruptions_in_a_row(draft) + 1
        draft.set("disruptions", {"count": count, "checkpointStep": saved_step(draft)})
    draft.set("phase", "Restarting")
    draft.set_condition(names.CONDITION_RUNNING, False, end.reason, end.message)
    draft.set_condition(names.CONDITION_RESTARTING, True, end.reason, end.message)
    pause = pause_before_next(seen, draft)
    when = f" in {duration_text(pause)}" if pause > restart.DISRUPTION_PAUSE else ""
    draft.announce(end.reason, f"attempt {seen.attempt}: {end.message}; starts again{when}", is_warning=True)
    if seen.gang is not None:
        clear_away(draft, PYTORCHJOB, seen.gang)
    draft.look_again(POLL)


def clear_away(draft: Draft, kind: Kind, obj: Object) -> None:
    """Delete an object, unless that is under way."""
    if not is_terminating(obj):
        draft.do(Delete.of(kind, obj))


def runs_another_image(child: Object, image: str) -> bool:
    """Whether a Job or PyTorchJob was made for another image than the job has now."""
    spec = child["spec"]
    template = spec["template"] if "template" in spec else spec["pytorchReplicaSpecs"]["Master"]["template"]
    return bool(template["spec"]["containers"][0]["image"] != image)
