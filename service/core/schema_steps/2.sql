-- From release 0.1.0 to 0.2.0. A process of 0.1.0 can work on it too.
insert into schema_version (version, serves_from) values (2, 1);

-- The erasure of a process: its receipts, a scope for keys, and batches that go on without what was erased.
alter table api_keys drop constraint api_keys_scopes_check,
    add constraint api_keys_scopes_check check (scopes <@ '{read,write,operator,erase}' and scopes <> '{}');
alter table batches add column past_sequence bigint not null default 0;
alter table batch_items alter column process_number drop not null,
    drop constraint batch_items_outcome_check,
    drop constraint refused_has_no_job,
    add constraint batch_items_outcome_check
        check (outcome in ('created', 'joined', 'cached', 'refused', 'erased')),
    add constraint refused_has_no_job check ((outcome in ('refused', 'erased')) = (job_id is null)),
    add constraint erased_names_nothing check (
        (outcome = 'erased') = (process_number is null) and (outcome <> 'erased' or reference is null)
    );
create index batch_items_refused on batch_items (process_number) where outcome = 'refused';
create index idempotency_keys_by_id on idempotency_keys (right(location, 36));
create table erasures (
    id             uuid        primary key default gen_random_uuid(),
    client_id      uuid        not null references clients,
    of_everyone    boolean     not null,
    process_number text        check (process_number ~ '^[0-9]{20}$'),
    proof          text        not null check (proof like '$scrypt$%'),
    counts         jsonb       not null,
    requested_at   timestamptz not null default now(),
    quiet_at       timestamptz not null,
    next_look_at   timestamptz not null default now(),
    finished_at    timestamptz,

    constraint finished_names_nothing check ((finished_at is null) = (process_number is not null)),
    constraint finished_when_quiet check (finished_at >= quiet_at)
);
create index erasures_pending on erasures (next_look_at) where finished_at is null;
-- Left by submissions that were refused for too many active jobs: a number that nobody had asked for in the end.
delete from processes p
where not exists (select from jobs where process_number = p.number)
  and not exists (select from documents where process_number = p.number);

-- What each caller asked for himself. Of a job that several share it is not known any more, and shows as nothing special.
alter table subscriptions add column priority job_priority not null default 'normal',
    add column filters jsonb check (jsonb_array_length(filters) > 0);
update subscriptions s set priority = j.priority, filters = j.filters
from jobs j
where j.id = s.job_id and (j.priority <> 'normal' or j.filters is not null)
  and not exists (select from subscriptions o where o.job_id = s.job_id and o.client_id <> s.client_id);

-- Accesses to documents, and what has become too secret found without a walk.
create index processes_secret on processes (secrecy_level) where secrecy_level > 0;
create index documents_secret on documents (secrecy_level) where secrecy_level > 0 and object_key is not null;

-- Who was handed documents, or links to them: an entry for each answer, and each webhook when it is sent.
create table accesses (
    id         bigint      primary key generated always as identity,
    at         timestamptz not null default now(),
    client_id  uuid        not null references clients,  -- whose documents
    key_id     text,                                     -- the API key that asked; null: a webhook took them there
    action     text        not null,                     -- what was handed out, after the noun that subject is of
    subject    uuid        not null,                     -- a document, a job or a delivery; it may be forgotten
    documents  integer     not null check (documents > 0),
    request_id text
);
create index accesses_by_time on accesses (at, id);

-- Nobody deletes an entry by a slip: who would has to say so in his transaction, and what is young stays. Who owns
-- the table can still do as he likes.
create function guard_access() returns trigger
language plpgsql as $$
declare
    days integer := nullif(current_setting('autos.audit_days', true), '');
begin
    if days >= 30 and old.at < now() - make_interval(days => days) then
        return old;
    end if;
    raise exception 'accesses is append only';
end
$$;
create trigger accesses_are_kept before delete on accesses for each row execute function guard_access();
create trigger accesses_are_not_changed before update on accesses
    for each statement execute function refuse_change();

-- Of a source that tells when a process last changed: while it tells the same, no list is read again.
create table known_lists (
    process_number text        primary key references processes on delete cascade,
    changed_at     timestamptz not null,  -- what the source called its last change just before the list was read
    listed_at      timestamptz not null,  -- of the process, if nobody listed it otherwise since
    read_at        timestamptz not null   -- when the list itself was last read
);

-- What befell a job from its first claim to its end, where it went otherwise than it should; never changed. Of
-- its last 100 runs.
create table job_events (
    job_id  uuid        not null references jobs on delete cascade,
    run     bigint      not null,   -- the fence of its claim
    what    text        not null check (what in ('claimed', 'waits', 'retried', 'handed_back', 'lease_lost')),
    at      timestamptz not null default now(),
    reason  text,                   -- the code of why it waits or is tried again
    next_at timestamptz,            -- when the next run may begin

    primary key (job_id, run, what)
);
