"""What the operator does about a job: one pure function, from everything observed to writes and status.

It reads as a list of questions. A pass does what can be done now and is run again whenever something changes,
so that any order of events, any crash and any replay ends in the same place. What must survive a crash stands
in status, and status is written before the writes that depend on it:

- `attempt` names the newest gang; the condition Running with reason Creating says that it may not exist yet.
- The condition Restarting says that the end of that gang is judged and counted: what is left of it is cleared
  away, and the next attempt follows.
- The condition Suspended says that the gang was stopped, or is being stopped, for `spec.runPolicy.suspend`.
- `placement` holds what the job is to run on: decided anew in each pass until the first attempt has its
  number, and read back ever after.
"""

from datetime import timedelta

from phitune_operator import decide, names
from phitune_operator.attempts import (
    CREATING,
    POLL,
    RECHECK,
    STOPPING,
    clear_away,
    finish,
    follow_or_judge,
    hear_rank_zero,
    is_done,
    is_outdated,
    leave_suspension,
    train,
    was_suspended,
)
from phitune_operator.blocked import BlockedError, BrokenConfigError
from phitune_operator.clock import from_text, to_text
from phitune_operator.draft import Draft
from phitune_operator.fields import seconds
from phitune_operator.kinds import FINETUNEJOB, JOB, POD, Object, is_terminating, kind_of
from phitune_operator.observed import Create, Delete, Observed, Plan
from phitune_operator.policies import acceptance, deadline, prepare, ttl
from phitune_operator.prepared import what_to_prepare
from phitune_operator.render.config_map import config_map
from phitune_operator.render.network_policy import network_policies
from phitune_operator.render.prepare_job import prepare_job
from phitune_operator.render.subject import Subject
from phitune_operator.render.volume import claim
from phitune_operator.status import is_true, summary


def plan(seen: Observed) -> Plan:
    """Decide what to do about a job now. Pure: the clock, too, is in what was seen."""
    draft = Draft(seen.raw, now=seen.now)
    if seen.is_deleted:
        return Plan(status=seen.status)  # owner references take the children along
    acceptance.end_own_error(draft)
    if is_finished(seen):
        after_finish(seen, draft)
    elif seen.job is None:
        acceptance.refuse(draft, BlockedError("InvalidSpec", "; ".join(seen.problems)))
        draft.status.setdefault("phase", "Pending")
    elif is_done(seen):
        finish(seen, draft)
        acceptance.accept(seen, draft, (seen.status.get("placement") or {}).get("reason", ""))
        summarize(seen, draft)
    elif is_too_late(seen, draft):
        draft.fail(
            "DeadlineExceeded", f"not done within activeDeadline ({seen.spec.run_policy.active_deadline})"
        )
        draft.look_again(0)
    elif seen.spec.run_policy.suspend:
        suspend(seen, draft)
    else:
        try:
            go_on(seen, draft)
        except BlockedError as problem:
            wait_for_change(seen, draft, problem)
        except BrokenConfigError as problem:
            go_on_without_config(seen, draft, str(problem))
    return draft.plan()


def is_finished(seen: Observed) -> bool:
    """Whether the job has come to its end, good or bad."""
    return is_true(seen.status, names.CONDITION_SUCCEEDED) or is_true(seen.status, names.CONDITION_FAILED)


def after_finish(seen: Observed, draft: Draft) -> None:
    """Stop what still runs, keep what has ended for its logs, and remove the job when its time has come."""
    if is_true(seen.status, names.CONDITION_FAILED):
        stop_leftovers(seen, draft)
    if seen.job is None or seen.spec.run_policy.ttl_after_finished is None:
        return
    left = ttl.time_left(
        ttl=timedelta(seconds=seconds(seen.spec.run_policy.ttl_after_finished)),
        finished_at=from_text(seen.status.get("completionTime")),
        now=seen.now,
    )
    if left == timedelta():
        draft.do(Delete.of(FINETUNEJOB, seen.raw))
    elif left is not None:
        draft.look_again(left)


def stop_leftovers(seen: Observed, draft: Draft) -> None:
    """End the processes of a failed job. A gang that ended by itself keeps its ended pods, for their logs."""
    if seen.prepare is not None and any(pod.is_live for pod in seen.prepare_pods):
        clear_away(draft, JOB, seen.prepare)
    live = [pod for pod in seen.gang_pods if pod.is_live]
    if seen.gang is None or not (live or not seen.gang_pods):
        return
    if any(pod.has_ended and not pod.has_succeeded for pod in seen.gang_pods):
        for pod in live:
            if not pod.is_terminating:
                draft.do(Delete(kind=POD, namespace=seen.key.namespace, name=pod.name, uid=pod.uid))
    else:
        for known in (seen.gang, *seen.needs):
            clear_away(draft, kind_of(known), known)


def is_too_late(seen: Observed, draft: Draft) -> bool:
    """Whether the job has used up the time it may take; asks for a look when it will have."""
    limit = seen.spec.run_policy.active_deadline
    left = deadline.time_left(
        deadline=timedelta(seconds=seconds(limit)) if limit else None,
        started_at=from_text(seen.status.get("startTime")),
        now=seen.now,
    )
    if left:
        draft.look_again(left)
    return left == timedelta()


def suspend(seen: Observed, draft: Draft) -> None:
    """Stop the gang (its pods save and leave) and wait until nothing runs."""
    hear_rank_zero(seen, draft)
    if seen.prepare is not None and not is_true(seen.status, names.CONDITION_PREPARED):
        clear_away(draft, JOB, seen.prepare)
    for known in (*seen.gangs, *seen.needs):
        clear_away(draft, kind_of(known), known)
    running = [pod.name for pod in seen.pods if pod.is_live]
    draft.set("phase", "Suspended")
    draft.set_condition(names.CONDITION_RUNNING, False, "Suspended", "spec.runPolicy.suspend is true")
    if running or draft.actions:
        message = f"{len(running)} pod(s) are saving and stopping" if running else "stopping"
        draft.set_condition(names.CONDITION_SUSPENDED, False, STOPPING, message)
        draft.look_again(RECHECK)
    elif draft.set_condition(names.CONDITION_SUSPENDED, True, "Suspended", "spec.runPolicy.suspend is true"):
        draft.announce("Suspended", "stopped; with spec.runPolicy.suspend: false it goes on")
    summarize(seen, draft)


def go_on(seen: Observed, draft: Draft) -> None:
    """Bring the job one step closer to its end. Raises BlockedError where it cannot go on."""
    if seen.problems and seen.attempt == 0:
        raise BlockedError("InvalidSpec", "; ".join(seen.problems))
    if seen.gang is None or not seen.gang_pods:
        decide.check(seen)
    subject, placement = decide.subject_of(seen)
    is_new = not decide.is_pinned(seen) and placement != seen.status.get("placement")
    if is_new and subject.gpus_per_node:
        draft.announce("Placed", placement["reason"])
    draft.set("placement", placement)
    places = {"claim": subject.claim_name, "run": subject.run_folder}
    draft.set("artifacts", {**(seen.status.get("artifacts") or {}), **places})
    draft.status.setdefault("restarts", 0)
    provide(seen, subject, draft)
    if not is_prepared(seen, draft):
        get_prepared(seen, subject, draft)
    else:
        train(seen, subject, draft)
    waits = seen.gang is not None and is_outdated(seen.gang, subject)
    later = "; what has changed in the spec counts from the next attempt on" if waits else ""
    acceptance.accept(seen, draft, placement.get("reason", "") + later)
    summarize(seen, draft)


def go_on_without_config(seen: Observed, draft: Draft, problem: str) -> None:
    """Follow a gang that is there, for its pods have read the config; nothing else can be started."""
    is_over = is_true(seen.status, names.CONDITION_RESTARTING) or was_suspended(seen)
    if is_over or seen.gang is None or is_terminating(seen.gang) or not seen.gang_pods:
        hear_rank_zero(seen, draft)
        draft.record_failure("UserError", problem, None)
        draft.fail("UserError", problem)
        draft.look_again(0)
    else:
        follow_or_judge(seen, seen.gang, draft)
    summarize(seen, draft)


def summarize(seen: Observed, draft: Draft) -> None:
    """Renew the columns of `kubectl get`."""
    resources = seen.spec.resources
    columns = summary(
        draft.status,
        nodes=resources.nodes,
        gpus_per_node=resources.gpus_per_node,
        processes_per_node=resources.gpus_per_node or resources.processes_per_node or 1,
    )
    draft.set("summary", columns)


def wait_for_change(seen: Observed, draft: Draft, problem: BlockedError) -> None:
    """Say what keeps the job from going on, and look again: not everything that could help is watched."""
    acceptance.refuse(draft, problem)
    if seen.gang is None:
        draft.set("phase", "Pending")
    draft.look_again(RECHECK)
    if seen.prepare is not None and not is_terminating(seen.prepare) and not is_prepared(seen, draft):
        follow_prepare(seen, seen.prepare, draft)


def provide(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Make the volume, and what the pods of a gang need that has its number, unless they are there."""
    wanted_claim = claim(subject)
    if wanted_claim is not None and seen.claim is None:
        draft.do(Create.of(wanted_claim))
    if seen.config_map is None and seen.attempt > 0:
        draft.do(Create.of(config_map(subject)))


def is_prepared(seen: Observed, draft: Draft) -> bool:
    """Whether model and data are on the volume; once said, it stays so."""
    if is_true(seen.status, names.CONDITION_PREPARED):
        return True
    if seen.prepared_by is not None and not prepare.is_doubted(seen.status):
        message = f"job {seen.prepared_by.name} has put model and data on the volume"
        draft.set_condition(names.CONDITION_PREPARED, True, prepare.SHARED, message)
        draft.announce(prepare.SHARED, message)
        return True
    if seen.prepare is None or is_terminating(seen.prepare):
        return False
    if prepare.how_it_stands(seen.prepare, seen.prepare_pods).stage is not prepare.Stage.DONE:
        return False
    if what := what_to_prepare(seen.spec, seen.claim):
        draft.set("prepared", {"key": what, "at": to_text(seen.now)})
    if draft.set_condition(names.CONDITION_PREPARED, True, "Prepared", "model and data are on the volume"):
        draft.announce("Prepared", "model and data are on the volume")
    return True


def get_prepared(seen: Observed, subject: Subject, draft: Draft) -> None:
    """Start the prepare Job, wait for it, or fail with what it said."""
    draft.set("phase", "Preparing")
    draft.set_condition(names.CONDITION_RUNNING, False, "Preparing", "model and data come first")
    leave_suspension(draft)
    for known in (*seen.gangs, *seen.needs):
        clear_away(draft, kind_of(known), known)  # of an attempt whose error is doubted
    if seen.prepare is None:
        if not prepare.is_doubted(seen.status):
            draft.set_condition(names.CONDITION_PREPARED, False, CREATING, "the prepare Job is being created")
        # No watch tells of the network's rules: they are made before any pod.
        draft.do(*map(Create.of, [*network_policies(subject), prepare_job(subject)]))
        return
    if is_terminating(seen.prepare):
        draft.look_again(POLL)
        return
    is_waiting = all(pod.phase == "Pending" for pod in seen.prepare_pods)
    if is_waiting and (is_outdated(seen.prepare, subject) or is_sent_elsewhere(seen, subject)):
        clear_away(draft, JOB, seen.prepare)
        return
    follow_prepare(seen, seen.prepare, draft)


def follow_prepare(seen: Observed, job: Object, draft: Draft) -> None:
    """Say how far the prepare Job is, or fail with what it said."""
    draft.set("phase", "Preparing")
    preparation = prepare.how_it_stands(job, seen.prepare_pods)
    if preparation.stage is prepare.Stage.FAILED:
        draft.record_failure(preparation.reason, preparation.message, preparation.pod)
        draft.fail(preparation.reason, preparation.message)
        return
    reason, message = prepare.how_far_it_is(seen.prepare_pods)
    draft.set_condition(names.CONDITION_PREPARED, False, reason, message)
    draft.look_again(RECHECK)


def is_sent_elsewhere(seen: Observed, subject: Subject) -> bool:
    """Whether no node takes the prepare pod, and the job would go to other nodes by now."""
    annotations = ((seen.prepare or {}).get("metadata") or {}).get("annotations") or {}
    return annotations.get(names.ANNOTATION_PLACE, subject.place) != subject.place and any(
        pod.unschedulable for pod in seen.prepare_pods
    )
