"""The attempts of a job: its gangs, one after the other. Part of `plan`, and as pure.

An attempt takes its number, is created, followed, judged once, and cleared away before the next one starts.
"""

from dataclasses import replace
from datetime import timedelta

from phitune_operator import names
from phitune_operator.backends import BACKENDS, is_suspended
from phitune_operator.clock import from_text
from phitune_operator.draft import Draft
from phitune_operator.fields import seconds
from phitune_operator.kinds import POD, POD_GROUP, Kind, Object, is_terminating, kind_of, labels_of
from phitune_operator.observed import Create, Delete, Observed, attempt_of
from phitune_operator.placement import selector_of
from phitune_operator.policies import gang_end, prepare, queue, restart
from phitune_operator.policies.free import pool_for, why_not_now
from phitune_operator.policies.gang_end import End, Verdict
from phitune_operator.policies.half_placed import TAKEN_BACK, apart, how_it_waited
from phitune_operator.policies.image_pull import NO_IMAGE, how_it_pulls
from phitune_operator.policies.running import TRAINING, how_it_runs
from phitune_operator.policies.stall import how_it_stalled
from phitune_operator.render.config_map import config_map
from phitune_operator.render.gang import need, needs_of, with_needs
from phitune_operator.render.network_policy import network_policies
from phitune_operator.render.subject import Subject
from phitune_operator.status import condition_of, duration_text, flipped_at, is_true

POLL = 5.0
"""Seconds between two looks at a gang that comes or goes."""
PROGRESS = 10.0
"""Seconds between two questions to rank 0 of a gang that runs, at least: how fresh progress in status is."""
RECHECK = 10.0
"""Seconds between two looks at what no watch tells: a claim of the user's, nodes, why pods are not made."""
BEREAVED_GRACE = 10
"""Seconds that pods get to end whose gang has lost a node: enough to bring a write to its end."""
CREATING, STOPPING = "Creating", "Stopping"
ENDS = (names.CONDITION_RESTARTING, names.CONDITION_SUCCEEDED, names.CONDITION_FAILED)
"""Conditions of which one is true once the end of a gang is judged."""


def hear_rank_zero(seen: Observed, draft: Draft) -> None:
    """Take over how far rank 0 is, and what it said when it ended: where it saved its work."""
    draft.take_progress(seen.progress)
    draft.take_last_words(seen.last_words)


def train(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Start a gang, follow it, and judge its end."""
    draft.set("attempt", seen.attempt)
    if is_true(seen.status, names.CONDITION_RESTARTING) or was_suspended(seen) or waits_for_room(seen):
        follow_up(seen, subject, draft)
    elif seen.attempt == 0:
        start_attempt(seen, subject, draft)
    elif seen.gang is None and condition_of(seen.status, names.CONDITION_RUNNING).get("reason") == CREATING:
        create_gang(subject, seen.attempt, draft)
    elif seen.gang is None or is_terminating(seen.gang):
        message = f"{subject.backend} {names.gang(subject.name, seen.attempt)} was deleted"
        judge(seen, draft, End(verdict=Verdict.DISRUPTED, reason="GangDeleted", message=message))
    elif not has_begun(seen) and is_outdated(seen.gang, subject) and not seen.problems:
        message = "the spec was changed before all pods ran"
        judge(seen, draft, End(verdict=Verdict.DISRUPTED, reason="SpecChanged", message=message))
    else:
        if is_suspended(seen.gang):
            wait_in_queue(seen, seen.gang, draft)
        else:
            follow_or_judge(seen, seen.gang, draft)
        restore_needs(seen, subject, seen.gang, draft)


def is_done(seen: Observed) -> bool:
    """Whether the gang has ended well: then there is nothing to suspend, to be late, or to do again."""
    is_judged = is_true(seen.status, names.CONDITION_RESTARTING)
    return not is_judged and gang_end.have_succeeded(seen.gang_pods, seen.spec.resources.nodes)


def finish(seen: Observed, draft: Draft) -> None:
    """End a job whose gang has ended well, whatever has become of its gang and its config since."""
    draft.set("attempt", seen.attempt)
    if was_suspended(seen):
        message = "the job was done before it could be stopped"
        draft.set_condition(names.CONDITION_SUSPENDED, False, gang_end.COMPLETED.reason, message)
    judge(seen, draft, gang_end.COMPLETED)


def restore_needs(seen: Observed, subject: Subject, gang: Object, draft: Draft) -> None:
    """Make again what a gang that goes on needs and somebody has deleted: its pods would wait for ever."""
    there = {kind_of(known) for known in seen.needs if attempt_of(known) == seen.attempt}
    if names.LABEL_POD_GROUP not in labels_of(gang):
        there.add(POD_GROUP)  # it was made without one, and stays so
    lost = [kind for kind in needs_of(subject) if kind not in there]
    if lost and not any(is_true(draft.status, end) for end in ENDS):
        draft.do(*(Create.of(need(kind, subject, seen.attempt)) for kind in lost))


def wait_in_queue(seen: Observed, gang: Object, draft: Draft) -> None:
    """Say why a suspended gang waits, or that it was stopped; when it may run is not for us to say."""
    end = gang_end.how_it_ended(gang, seen.gang_pods, num_pods=seen.spec.resources.nodes, now=seen.now)
    if end is None or end.verdict not in (Verdict.SUCCEEDED, Verdict.USER_ERROR):
        reason = condition_of(seen.status, names.CONDITION_RUNNING).get("reason")
        has_run = reason not in (CREATING, queue.QUEUED)
        end = queue.how_it_was_stopped(seen.gang_pods, seen.admission, has_run=has_run)
    if end is not None:
        judge(seen, draft, end)
        return
    since = from_text(gang["metadata"].get("creationTimestamp")) or seen.now
    waited = seen.now - since
    if not seen.gang_pods:
        draft.set("phase", "Queued")
        if seen.admission is not None or waited >= queue.UNHEARD_FOR:
            message = queue.how_it_waits(seen.admission)
            if draft.set_condition(names.CONDITION_RUNNING, False, queue.QUEUED, message):
                draft.announce(queue.QUEUED, f"attempt {seen.attempt}: {message}")
    draft.look_again(queue.pause(waited))


def follow_or_judge(seen: Observed, gang: Object, draft: Draft) -> None:
    """Say how the gang does, or how it ended."""
    end = gang_end.how_it_ended(gang, seen.gang_pods, num_pods=seen.spec.resources.nodes, now=seen.now)
    if end is None:
        pool = seen.pool
        end = how_it_waited(
            seen.gang_pods,
            num_pods=seen.spec.resources.nodes,
            refused=seen.refusal.message if seen.refusal else "",
            pool=pool,
            waited=seen.waited,
            limit=seen.settings.pool_wait if pool else seen.settings.placement_grace,
        )
    if end is None:
        accepted = condition_of(seen.status, names.CONDITION_ACCEPTED)
        said_at = accepted.get("lastTransitionTime") if accepted.get("reason") == NO_IMAGE else None
        end = how_it_pulls(seen.gang_pods, said_at=from_text(said_at), now=seen.now)
    if end is None:
        limit = timedelta(seconds=seconds(seen.spec.run_policy.stall_timeout))
        end = how_it_stalled(seen.gang_pods, seen.progress, silence=seen.silence, limit=limit)
    if end is None:
        follow(seen, gang, draft)
    else:
        judge(seen, draft, end)


def was_suspended(seen: Observed) -> bool:
    """Whether the gang was stopped for a suspension and nothing has started since."""
    condition = condition_of(seen.status, names.CONDITION_SUSPENDED)
    return condition.get("status") == "True" or condition.get("reason") == STOPPING


def waits_for_room(seen: Observed) -> bool:
    """Whether the next gang is not made because others hold what it needs."""
    reason = condition_of(seen.status, names.CONDITION_RUNNING).get("reason")
    return seen.gang is None and reason == names.REASON_NO_ROOM


def waits_whole(seen: Observed, gang: Object) -> bool:
    """Whether no pod of a gang that the scheduler places whole has a node yet: it holds nothing."""
    return names.LABEL_POD_GROUP in labels_of(gang) and not any(pod.node for pod in seen.gang_pods)


def leave_suspension(draft: Draft) -> None:
    """Say that the job goes on, if it was suspended."""
    if draft.condition(names.CONDITION_SUSPENDED) and draft.set_condition(
        names.CONDITION_SUSPENDED, False, "Resumed", "spec.runPolicy.suspend is false"
    ):
        draft.announce("Resumed", "goes on from its last checkpoint")


def follow_up(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Clear away an attempt that is over; start the next when nothing of it runs and the pause is past."""
    hear_rank_zero(seen, draft)
    hurry(seen, draft)
    for known in (*seen.gangs, *seen.needs):
        clear_away(draft, kind_of(known), known)
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


def hurry(seen: Observed, draft: Draft) -> None:
    """Let pods go soon that wait for those of a lost node, and those, should it be back: alone none saves."""
    if draft.condition(names.CONDITION_RESTARTING).get("reason") != "NodeLost":
        return
    namespace = seen.key.namespace
    for pod in seen.gang_pods:
        if not pod.has_ended and (not pod.is_terminating or pod.grace > BEREAVED_GRACE):
            draft.do(Delete(kind=POD, namespace=namespace, name=pod.name, uid=pod.uid, grace=BEREAVED_GRACE))


def pause_before_next(seen: Observed, draft: Draft) -> timedelta:
    """How long to wait after the end that the condition Restarting tells of."""
    condition = draft.condition(names.CONDITION_RESTARTING)
    if condition.get("reason") in gang_end.FAULT_REASONS:
        return restart.pause_after_fault(counted=int(draft.status.get("restartsCounted") or 0))
    pause = restart.pause_after_disruption(in_a_row=disruptions_in_a_row(draft))
    if condition.get("reason") in TAKEN_BACK:
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
    """Take the next number, then create the gang of that name, if there is room for all of it now."""
    subject = grow_for(seen, subject, draft)
    if not draft.status["placement"].get("pool") and (why := why_not_now(seen, subject)):
        wait_for_room(draft, why)
        return
    attempt = seen.attempt + 1
    draft.set("attempt", attempt)
    draft.set("restarts", attempt - 1)
    draft.status.setdefault("restartsCounted", 0)
    if seen.spec.queue_name is None and not subject.has_pod_group:
        draft.stamp("startTime")
    if draft.condition(names.CONDITION_RESTARTING):
        draft.set_condition(names.CONDITION_RESTARTING, False, "Restarted", f"attempt {attempt} follows")
    leave_suspension(draft)
    draft.set_condition(names.CONDITION_RUNNING, False, CREATING, f"attempt {attempt} is being created")
    draft.announce(
        "GangCreated",
        f"attempt {attempt}: {subject.num_nodes} pod(s) x {subject.processes_per_node} process(es); follow: "
        f"kubectl logs -f -n {subject.namespace} -l {names.LABEL_JOB}={subject.name},"
        f"{BACKENDS[subject.backend].rank_zero} "
        "(ends with this attempt)",
    )
    draft.set("phase", "Pending" if attempt == 1 else "Restarting")
    if attempt == 1 and seen.config_map is None:
        # For good, as every pod of a gang reads it.
        draft.do(Create.of(config_map(subject)))
    create_gang(subject, attempt, draft)


def grow_for(seen: Observed, subject: Subject, draft: Draft) -> Subject:
    """Note the pool that has to grow for this attempt, if there is one, so that its pods may go there."""
    placement = draft.status["placement"]
    pool = pool_for(seen, subject, product=placement.get("product", ""))
    if subject.gpus_per_node == 0:
        # No pod is bound to a pool: an attempt whose pods find nodes without it, or never will, needs none.
        others = {name: value for name, value in placement.items() if name != "pool"}
        draft.set("placement", others if pool is None else {**others, "pool": pool.name})
        return subject
    if pool is None or placement.get("pool"):
        return subject
    selectors = tuple(dict.fromkeys((*subject.selectors, selector_of(pool))))
    draft.set("placement", {**placement, "nodeLabels": list(selectors), "pool": pool.name})
    return replace(subject, selectors=selectors)


def wait_for_room(draft: Draft, why: str) -> None:
    """Say what others hold, and look again: nothing tells when they give it back."""
    leave_suspension(draft)
    if draft.set_condition(names.CONDITION_RUNNING, False, names.REASON_NO_ROOM, why):
        draft.announce(names.REASON_NO_ROOM, why)
    if not is_true(draft.status, names.CONDITION_RESTARTING):
        draft.set("phase", "Pending")
    draft.look_again(RECHECK)


def create_gang(subject: Subject, attempt: int, draft: Draft) -> None:
    """Create the gang whose number is taken already."""
    # Prepare has made the policies, too; but somebody may have deleted them, of which no watch tells.
    draft.do(*map(Create.of, [*network_policies(subject), *with_needs(subject, attempt)]))


def follow(seen: Observed, gang: Object, draft: Draft) -> None:
    """Say how a gang does that has not ended."""
    if not waits_whole(seen, gang):
        draft.stamp("startTime")
    standing = how_it_runs(
        seen.gang_pods,
        seen.progress,
        has_told=condition_of(seen.status, names.CONDITION_RUNNING).get("reason") == TRAINING,
        num_pods=seen.spec.resources.nodes,
        now=seen.now,
    )
    draft.set_condition(names.CONDITION_RUNNING, standing.runs, standing.reason, standing.message)
    if standing.runs and (seen.progress is not None or draft.status.get("phase") != "Evaluating"):
        evaluates = seen.progress is not None and seen.progress.state in ("baseline", "evaluating")
        draft.set("phase", "Evaluating" if evaluates else "Running")
    elif draft.status.get("phase") == "Queued":
        draft.set("phase", "Pending" if seen.attempt == 1 else "Restarting")
    draft.take_progress(seen.progress)
    draft.look_again(seen.poll_in)


def judge(seen: Observed, draft: Draft, end: End) -> None:
    """Write down how an attempt ended, once, and what follows from it."""
    draft.take_last_words(seen.last_words)
    if end.verdict is Verdict.SUCCEEDED:
        succeed(draft, end)
        return
    draft.record_failure(end.reason, end.message, end.pod, attempt=seen.attempt)
    counted = int(seen.status.get("restartsCounted") or 0)
    limit = seen.spec.run_policy.restart_limit
    if end.verdict is Verdict.USER_ERROR and prepare.is_doubtful(draft.status, end.reason):
        prepare.doubt(draft, end.message)
        start_over(seen, draft, replace(end, verdict=Verdict.DISRUPTED), counted)
    elif end.verdict is Verdict.USER_ERROR:
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
    # Before their gang goes: who deletes pods after it would give them all the time that their spec says.
    hurry(seen, draft)
    if seen.gang is not None:
        clear_away(draft, kind_of(seen.gang), seen.gang)
    draft.look_again(POLL)


def clear_away(draft: Draft, kind: Kind, obj: Object) -> None:
    """Delete an object, unless that is under way."""
    if not is_terminating(obj):
        draft.do(Delete.of(kind, obj))


def has_begun(seen: Observed) -> bool:
    """Whether every pod of the gang has come to run: before that, none can have trained."""
    pods = seen.gang_pods
    if is_true(seen.status, names.CONDITION_RUNNING):
        return True
    return len(pods) == seen.spec.resources.nodes and all(pod.phase != "Pending" for pod in pods)


def is_outdated(child: Object, subject: Subject) -> bool:
    """Whether the prepare Job or the gang was made from fields of the spec that have changed since."""
    made_from = (child["metadata"].get("annotations") or {}).get(names.ANNOTATION_PODS)
    return made_from is not None and made_from != subject.pods_hash
