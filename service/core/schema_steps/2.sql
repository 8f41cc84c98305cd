-- Who waited for a job that ended short of something finds it by an index of its own.
alter table subscriptions
    add column ended_as job_status check (ended_as in ('partial', 'failed', 'cancelled'));
create or replace function guard_job() returns trigger
language plpgsql as $$
begin
    if new.status <> old.status then
        if not job_status_can_move(old.status, new.status) then
            raise exception 'job % cannot move from % to %', old.id, old.status, new.status
                using errcode = 'AU001';
        end if;
        if job_status_is_final(new.status) and exists (
            select from documents
            where process_number = new.process_number and status in ('pending', 'processing')
        ) then
            raise exception 'job % cannot end with unfinished documents', old.id using errcode = 'AU002';
        end if;
        -- Among a client's jobs these are needles in a haystack: they get an index of their own.
        if new.status in ('partial', 'failed', 'cancelled') then
            update subscriptions set ended_as = new.status where job_id = new.id;
        end if;
    end if;
    -- What callers can see carries the sequence; ringing and leasing is nobody's news.
    if (new.status, new.total_documents, new.completed_documents, new.failed_documents,
        new.processing_documents, new.downloaded_bytes, new.progress_percentage, new.error_code,
        new.waiting_reason, new.next_attempt_at, new.updated_at)
       is distinct from
       (old.status, old.total_documents, old.completed_documents, old.failed_documents,
        old.processing_documents, old.downloaded_bytes, old.progress_percentage, old.error_code,
        old.waiting_reason, old.next_attempt_at, old.updated_at)
    then
        new.sequence := old.sequence + 1;
        new.changed_in := pg_current_xact_id()::text::bigint;
        new.updated_at := now();
        -- For callers who wait; sent with the commit, and lost without harm when nobody listens.
        perform pg_notify('autos_jobs', new.id::text);
    end if;
    return new;
end
$$;
update subscriptions s set ended_as = j.status from jobs j
where j.id = s.job_id and j.status in ('partial', 'failed', 'cancelled');
create index subscriptions_left_short on subscriptions (client_id, ended_as, job_created_at desc, job_id desc)
    where ended_as is not null;

-- Webhooks that were given up of late are counted without a look at all that ever were.
create index deliveries_given_up on deliveries (finished_at) where status = 'dead';
