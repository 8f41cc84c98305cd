-- Autos: the whole present truth of the database.
--
-- PostgreSQL holds the state of every job, document and delivery; Redis only rings the workers.
-- Lock order, everywhere: process, job, documents, subscriptions, endpoints, deliveries, batches.
-- Own SQLSTATEs: AU001 a move that no arrow allows, AU002 a final job with unfinished documents.

-- A row for each version that was reached; service/core/schema_steps/ has the way from each to the next.
create table schema_version (
    version     integer     primary key,
    serves_from integer     not null,   -- the oldest version whose code can work on it
    applied_at  timestamptz not null default now(),

    constraint serves_its_own check (serves_from between 1 and version)
);
insert into schema_version (version, serves_from) values (2, 1);

-- States ---------------------------------------------------------------------------------------

create type job_status as enum (
    'pending',     -- waits for a worker; next_attempt_at says from when on, waiting_reason why
    'processing',  -- one worker holds its lease
    'completed',   -- final: every document is available (also when the process has none)
    'partial',     -- final: some documents are available, some failed
    'failed',      -- final: no document is available, or the process could not be read
    'cancelled'    -- final: given up at a caller's wish
);

create type job_priority as enum ('high', 'normal', 'low');  -- in the order in which they are taken

create type document_status as enum (
    'skipped',     -- listed, but no job has wanted it yet: their filters left it out
    'pending',     -- to be fetched
    'processing',  -- being fetched by the job's worker
    'available',   -- stored in S3; object_key names the object
    'failed'       -- not to be had in this job; error_code says why, a new job tries again
);

create type delivery_status as enum (
    'pending',     -- to be sent at next_attempt_at
    'delivered',   -- the receiver answered 2xx
    'dead'         -- given up: the schedule is spent, the receiver answered 410, or its endpoint is disabled
);

-- The arrows, here and nowhere else.

create function job_status_can_move(source job_status, target job_status) returns boolean
language sql immutable parallel safe as $$
    select (source, target) in (
        ('pending',    'processing'),  -- claimed by a worker
        ('processing', 'pending'),     -- handed back: deploy, lost lease, a wait for the portal
        ('processing', 'completed'),
        ('processing', 'partial'),
        ('processing', 'failed'),
        ('pending',    'cancelled'),
        ('processing', 'cancelled')
    )
$$;

create function document_status_can_move(source document_status, target document_status) returns boolean
language sql immutable parallel safe as $$
    select (source, target) in (
        ('skipped',    'pending'),     -- taken up by a job that wants it
        ('pending',    'processing'),
        ('processing', 'available'),
        ('processing', 'failed'),
        ('processing', 'pending'),     -- handed back, or to be tried again by the same job
        ('pending',    'available'),   -- fetched within the moment between two of its worker's writes
        ('pending',    'failed'),      -- likewise, or its job ended before it was tried (again)
        ('failed',     'pending'),     -- taken up by a new job
        ('available',  'failed')       -- its object was found missing
    )
$$;

create function delivery_status_can_move(source delivery_status, target delivery_status) returns boolean
language sql immutable parallel safe as $$
    select (source, target) in (
        ('pending', 'delivered'),
        ('pending', 'dead'),
        ('dead',      'pending'),      -- redelivered by hand
        ('delivered', 'pending')       -- likewise, for a receiver that lost it
    )
$$;

create function job_status_is_final(status job_status) returns boolean
language sql immutable parallel safe as $$
    select status in ('completed', 'partial', 'failed', 'cancelled')
$$;

-- Who calls --------------------------------------------------------------------------------------

create table clients (
    id             uuid        primary key default gen_random_uuid(),
    name           text        not null unique check (char_length(name) between 1 and 100),

    requests_per_minute integer check (requests_per_minute > 0),  -- null, here and below: as the settings have it
    max_active_jobs     integer check (max_active_jobs > 0),
    max_secrecy         smallint check (max_secrecy between 0 and 5),
    created_at     timestamptz not null default now()
);

create table api_keys (
    id            text        primary key,
    client_id     uuid        not null references clients,
    key_sha256    bytea       not null unique check (octet_length(key_sha256) = 32),
    last_four     text        not null check (char_length(last_four) = 4),
    scopes        text[]      not null default '{read,write}'
        check (scopes <@ '{read,write,operator,erase}' and scopes <> '{}'),  -- operator: of every client
    created_at    timestamptz not null default now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz
);

-- Who looks at the dashboard: a key that was given once, remembered by a cookie.
create table sessions (
    token_sha256 bytea       primary key check (octet_length(token_sha256) = 32),
    key_id       text        not null references api_keys,
    client_id    uuid        references clients,  -- whom an operator looks at; null: the key's own client
    created_at   timestamptz not null default now(),
    expires_at   timestamptz not null
);
create index sessions_by_end on sessions (expires_at);

-- Who is told ------------------------------------------------------------------------------------

create table endpoints (
    id              uuid        primary key default gen_random_uuid(),
    client_id       uuid        not null references clients,
    url             text        not null check (char_length(url) <= 2048),
    description     text        check (char_length(description) between 1 and 500),
    events          text[]      not null check (events <> '{}'),  -- the types it wants
    failing_since   timestamptz,   -- the first failure after the last success
    last_failed_at  timestamptz,
    disabled_at     timestamptz,   -- what happens from then on is kept for it, and not sent
    disabled_reason text        check (disabled_reason in ('by_hand', 'gone', 'failing')),
    deleted_at      timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),

    constraint disabled_has_reason check ((disabled_at is null) = (disabled_reason is null)),
    constraint failing_has_failed check (failing_since is null or last_failed_at is not null)
);
create index endpoints_by_client on endpoints (client_id, created_at desc, id desc) where deleted_at is null;

-- The newest signs, and those before it go on signing until they expire.
create table signing_secrets (
    id          uuid        primary key,
    client_id   uuid        not null references clients,
    endpoint_id uuid        references endpoints,   -- null: for the URLs that come with a request
    sealed      bytea       not null,               -- under the key ring, bound to this row's id
    created_at  timestamptz not null default clock_timestamp(),
    expires_at  timestamptz
);
create unique index signing_secrets_one_signs on signing_secrets (coalesce(endpoint_id, client_id))
    where expires_at is null;
create index signing_secrets_by_owner on signing_secrets (coalesce(endpoint_id, client_id));

-- What was done by hand, or by Autos itself, to what callers rely on. Nothing is ever changed in it.
create table audit_log (
    id        bigint      primary key generated always as identity,
    at        timestamptz not null default now(),
    client_id uuid        not null references clients,
    key_id    text,                                 -- the API key that asked; null: Autos itself, or the operator
    action    text        not null,
    subject   uuid,
    details   jsonb       not null default '{}'
);
create index audit_log_by_client on audit_log (client_id, id desc);

create function refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception '% is append only', tg_table_name;
end
$$;
create trigger audit_log_is_append_only before update or delete on audit_log
    for each statement execute function refuse_change();

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

-- Court cases and their documents ------------------------------------------------------------------

create table processes (
    number            text        primary key check (number ~ '^[0-9]{20}$'),
    court             text,
    subject           text,
    case_class        text,
    secrecy_level     smallint    check (secrecy_level between 0 and 5),
    metadata          jsonb       not null default '{}',
    source_updated_at timestamptz,             -- the newest movement the portal named
    listed_at         timestamptz,             -- when the list of documents was last read, or known to be the same
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now()
);
create index processes_secret on processes (secrecy_level) where secrecy_level > 0;

-- Of a source that tells when a process last changed: while it tells the same, no list is read again.
create table known_lists (
    process_number text        primary key references processes on delete cascade,
    changed_at     timestamptz not null,  -- what the source called its last change just before the list was read
    listed_at      timestamptz not null,  -- of the process, if nobody listed it otherwise since
    read_at        timestamptz not null   -- when the list itself was last read
);

create table jobs (
    id                   uuid        primary key default gen_random_uuid(),
    process_number       text        not null references processes,
    client_id            uuid        not null references clients,  -- who asked first, and in whose turn it is taken
    priority             job_priority not null default 'normal',
    filters              jsonb       check (jsonb_array_length(filters) > 0),  -- null: all documents; else those of any
    status               job_status  not null default 'pending',
    sequence             bigint      not null default 1,
    changed_in           bigint      not null default pg_current_xact_id()::text::bigint,  -- the transaction that did
    total_documents      integer     not null default 0 check (total_documents >= 0),
    completed_documents  integer     not null default 0 check (completed_documents >= 0),
    failed_documents     integer     not null default 0 check (failed_documents >= 0),
    processing_documents integer     not null default 0 check (processing_documents >= 0),
    downloaded_bytes     bigint      not null default 0 check (downloaded_bytes >= 0),
    expected_bytes       bigint      not null default 0 check (expected_bytes >= 0),
    progress_percentage  real        not null default 0 check (progress_percentage between 0 and 100),
    error_code           text,
    error_message        text,
    waiting_reason       text,
    next_attempt_at      timestamptz not null default now(),
    ring_at              timestamptz not null default now(),  -- when the sweep rings (again)
    retries              integer     not null default 0,      -- runs that ended with documents left over
    crashes              integer     not null default 0,      -- leases that ran out
    worker_id            uuid,
    fence                bigint      not null default 0,      -- raised by every claim; guards every write
    lease_until          timestamptz,
    deadline_at          timestamptz not null,
    traceparent          text        check (traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'),  -- who began it
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now(),
    started_at           timestamptz,
    finished_at          timestamptz,

    constraint final_has_end check (job_status_is_final(status) = (finished_at is not null)),
    constraint processing_has_lease check ((status = 'processing') = (lease_until is not null)),
    constraint failed_has_reason check (status <> 'failed' or error_code is not null),
    constraint waiting_is_pending check (waiting_reason is null or status = 'pending'),
    constraint counts_fit check (
        completed_documents + failed_documents + processing_documents <= total_documents
    ),
    constraint counts_of_a_final_job check (
        not job_status_is_final(status) or completed_documents + failed_documents = total_documents
    ),
    constraint completed_means_all check (status <> 'completed' or failed_documents = 0),
    constraint partial_means_some check (
        status <> 'partial' or (failed_documents > 0 and completed_documents > 0)
    ),
    constraint only_final_is_whole check ((progress_percentage = 100) = job_status_is_final(status))
);

-- Two active jobs of one process cannot exist, however many callers ask at once.
create unique index jobs_one_active_per_process on jobs (process_number)
    where status in ('pending', 'processing');
create index jobs_by_process on jobs (process_number, created_at desc);
create index jobs_by_change on jobs (changed_in, id);
create index jobs_by_status on jobs (status, created_at desc, id desc);
create index jobs_by_end on jobs (finished_at, id) where finished_at is not null;
create index jobs_to_ring on jobs (ring_at) where status = 'pending';
create index jobs_to_claim on jobs (client_id, priority, next_attempt_at, created_at) where status = 'pending';
create index jobs_running on jobs (client_id) where status = 'processing';
create index jobs_leased on jobs (lease_until) where status = 'processing';

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

-- When each client last had a job taken by a worker: they take turns.
create table turns (
    client_id uuid        primary key references clients,
    served_at timestamptz not null
);

create table documents (
    id                    uuid            primary key default gen_random_uuid(),
    process_number        text            not null references processes,
    portal_uuid           uuid            not null,
    position              integer         not null,
    name                  text            not null,
    type                  text,
    has_file              boolean         not null,   -- false: the portal lists it without a file
    declared_type         text,
    declared_bytes        bigint          check (declared_bytes >= 0),
    secrecy_level         smallint        not null check (secrecy_level between 0 and 5),
    filed_at              timestamptz,
    status                document_status not null default 'pending',
    job_id                uuid            not null,        -- the job that last took it up; it may be forgotten
    attempts              integer         not null default 0,
    error_code            text,
    error_message         text,
    media_type            text,
    size_bytes            bigint          check (size_bytes > 0),
    sha256                bytea           check (octet_length(sha256) = 32),
    object_key            text            collate "C",     -- ordered as S3 lists keys
    news_job_id           uuid,                            -- the job under which the status last changed,
    news_sequence         bigint          not null default 0,  -- and its sequence from which on callers see that
    download_started_at   timestamptz,
    download_completed_at timestamptz,
    created_at            timestamptz     not null default now(),
    updated_at            timestamptz     not null default now(),

    -- The portal's uuid names a document inside its process only; other ids repeat across courts.
    constraint documents_natural_key unique (process_number, portal_uuid),
    constraint available_is_stored check (
        (status = 'available') = (object_key is not null)
        and (object_key is null) = (size_bytes is null)
        and (object_key is null) = (sha256 is null)
        and (object_key is null) = (media_type is null)
    ),
    constraint failed_has_reason check (status <> 'failed' or error_code is not null),
    constraint available_has_no_error check (status <> 'available' or error_code is null)
);
create unique index documents_one_row_per_object on documents (object_key);
create index documents_secret on documents (secrecy_level) where secrecy_level > 0 and object_key is not null;

-- Whether a job with these filters brings this document in: any of them may name it.
create function document_is_wanted(document documents, filters jsonb) returns boolean
language sql stable parallel safe as $$
    select filters is null or exists (
        select from jsonb_array_elements(filters) as f
        where (f -> 'types' is null or f -> 'types' ? lower(document.type))
          and (f -> 'ids' is null or f -> 'ids' ? document.portal_uuid::text or f -> 'ids' ? document.id::text)
          -- Days are days in Brasília.
          and (f -> 'filed_from' is null
               or (document.filed_at at time zone 'America/Sao_Paulo')::date >= (f ->> 'filed_from')::date)
          and (f -> 'filed_until' is null
               or (document.filed_at at time zone 'America/Sao_Paulo')::date <= (f ->> 'filed_until')::date)
    )
$$;

-- Requests that may be repeated ----------------------------------------------------------------------

create table idempotency_keys (
    client_id      uuid        not null references clients,
    route          text        not null,
    key            text        not null check (char_length(key) between 1 and 255),
    request_sha256 bytea       not null check (octet_length(request_sha256) = 32),
    status         smallint    not null,
    location       text        not null,
    body           bytea       not null,
    created_at     timestamptz not null default now(),
    primary key (client_id, route, key)
);
create index idempotency_keys_by_age on idempotency_keys (created_at);
create index idempotency_keys_by_id on idempotency_keys (right(location, 36));  -- of the job or batch

-- Who waits for what -------------------------------------------------------------------------------

create table subscriptions (
    id          uuid        primary key default gen_random_uuid(),
    job_id      uuid        not null references jobs,
    client_id   uuid        not null references clients,
    webhook_url text        check (char_length(webhook_url) <= 2048),
    endpoint_id uuid        references endpoints,
    events      text[],     -- the types that webhook_url wants; an endpoint has its own
    reference   text        check (char_length(reference) between 1 and 200),  -- the caller's own name for it
    priority    job_priority not null default 'normal',  -- what the caller asked for himself, here and below:
    filters     jsonb       check (jsonb_array_length(filters) > 0),  -- the job serves the others' wishes too
    job_created_at timestamptz not null,  -- as in the job, so that a client's jobs can be listed in order
    created_at  timestamptz not null default now(),
    ended_as    job_status check (ended_as in ('partial', 'failed', 'cancelled')),  -- if its job ended short

    constraint one_place check (webhook_url is null or endpoint_id is null),
    constraint a_url_wants_events check ((webhook_url is null) = (events is null))
);
create index subscriptions_by_job on subscriptions (job_id, client_id);
create index subscriptions_by_client on subscriptions (client_id, job_created_at desc, job_id desc);
create index subscriptions_left_short on subscriptions (client_id, ended_as, job_created_at desc, job_id desc)
    where ended_as is not null;
create index subscriptions_by_reference on subscriptions (client_id, reference) where reference is not null;

-- Many processes asked for at once --------------------------------------------------------------------

create table batches (
    id          uuid        primary key default gen_random_uuid(),
    client_id   uuid        not null references clients,
    reference   text        check (char_length(reference) between 1 and 200),
    webhook_url text        check (char_length(webhook_url) <= 2048),  -- told when every job has ended
    endpoint_id uuid        references endpoints,                      -- or this one
    open_jobs   integer     not null check (open_jobs >= 0),           -- those that have not ended
    created_at  timestamptz not null default now(),
    finished_at timestamptz,
    past_sequence bigint    not null default 0,    -- what erased jobs added to its own, which never falls

    constraint one_place check (webhook_url is null or endpoint_id is null),

    constraint finished_is_over check ((open_jobs = 0) = (finished_at is not null))
);

create index batches_by_end on batches (finished_at) where finished_at is not null;

create table batch_items (
    batch_id       uuid    not null references batches,
    position       integer not null,
    process_number text,               -- as the caller wrote it when it was refused; null when erased
    reference      text,
    outcome        text    not null check (outcome in ('created', 'joined', 'cached', 'refused', 'erased')),
    job_id         uuid    references jobs,
    problem        jsonb,

    primary key (batch_id, position),
    constraint refused_has_problem check ((outcome = 'refused') = (problem is not null)),
    constraint refused_has_no_job check ((outcome in ('refused', 'erased')) = (job_id is null)),
    constraint erased_names_nothing check (
        (outcome = 'erased') = (process_number is null) and (outcome <> 'erased' or reference is null)
    )
);
create index batch_items_by_job on batch_items (job_id);
create index batch_items_refused on batch_items (process_number) where outcome = 'refused';

-- One event on its way to one place.
create table deliveries (
    id               uuid            primary key default gen_random_uuid(),
    client_id        uuid            not null references clients,
    endpoint_id      uuid            references endpoints,
    webhook_url      text            check (char_length(webhook_url) <= 2048),
    -- Who shares it is sent to in turn: an endpoint, or a client's URL whatever its query.
    destination      uuid            not null generated always as (
        coalesce(endpoint_id, md5(client_id::text || split_part(webhook_url, '?', 1))::uuid)
    ) stored,
    subscription_id  uuid            references subscriptions,   -- whose job it tells of
    batch_id         uuid            references batches,         -- or which batch
    job_id           uuid            references jobs,
    event            text            not null,
    part             bigint          not null default 0,         -- tells events of one type apart
    payload          json            not null,        -- the event as it was; links are added when sent
    status           delivery_status not null default 'pending',
    attempts         integer         not null default 0,      -- requests sent
    rounds           integer         not null default 0,      -- steps of the schedule taken
    redeliveries     integer         not null default 0,      -- times it was asked for again by hand
    next_attempt_at  timestamptz     not null default now(),
    fence            bigint          not null default 0,
    claimed_until    timestamptz,
    last_status_code smallint,
    last_error       text,
    created_at       timestamptz     not null default now(),
    delivered_at     timestamptz,                             -- the first time
    finished_at      timestamptz,

    constraint deliveries_one_per_event unique (subscription_id, event, part),
    constraint deliveries_one_per_batch unique (batch_id, event),
    constraint one_place check ((endpoint_id is null) <> (webhook_url is null)),
    constraint of_one_thing check (subscription_id is null or batch_id is null),
    constraint delivered_once check (status <> 'delivered' or delivered_at is not null),
    constraint finished_has_end check ((status = 'pending') = (finished_at is null))
);
create index deliveries_due on deliveries (destination, next_attempt_at) where status = 'pending';
create index deliveries_by_client on deliveries (client_id, created_at desc, id desc);
create index deliveries_not_delivered on deliveries (client_id, created_at desc, id desc)
    where status <> 'delivered';
create index deliveries_given_up on deliveries (finished_at) where status = 'dead';
create index deliveries_by_endpoint on deliveries (endpoint_id, created_at desc, id desc);
create index deliveries_by_job on deliveries (job_id) where job_id is not null;
create index deliveries_of_no_job on deliveries (finished_at) where job_id is null and batch_id is null;

-- Each request that was sent, and what came of it.
create table delivery_attempts (
    delivery_id uuid        not null references deliveries,
    number      integer     not null check (number > 0),
    started_at  timestamptz not null,
    duration_ms real        not null check (duration_ms >= 0),
    status_code smallint,
    error       text,                  -- the class of the failure when no answer came
    answer      text        not null check (octet_length(answer) <= 1024),  -- the beginning of its body

    primary key (delivery_id, number),
    constraint answered_or_failed check ((status_code is null) <> (error is null))
);

-- What was erased ------------------------------------------------------------------------------------

-- The receipt of one erasure, and until it is finished the order to remove the objects.
create table erasures (
    id             uuid        primary key default gen_random_uuid(),
    client_id      uuid        not null references clients,  -- who asked for it
    of_everyone    boolean     not null,                     -- what every client had, not only he
    process_number text        check (process_number ~ '^[0-9]{20}$'),  -- until it is finished
    proof          text        not null check (proof like '$scrypt$%'),  -- of the number, salted
    counts         jsonb       not null,                     -- what there was, as he could see it
    requested_at   timestamptz not null default now(),
    quiet_at       timestamptz not null,                     -- from then on no worker of an erased job stores
    next_look_at   timestamptz not null default now(),
    finished_at    timestamptz,

    constraint finished_names_nothing check ((finished_at is null) = (process_number is not null)),
    constraint finished_when_quiet check (finished_at >= quiet_at)
);
create index erasures_pending on erasures (next_look_at) where finished_at is null;

-- What one of all workers does now and then ---------------------------------------------------------

create table chores (
    name    text        primary key,
    due_at  timestamptz not null default now(),  -- of no meaning for the sweep, which every worker does
    done_at timestamptz                          -- when it last came to its end
);
insert into chores (name) values ('sweep'), ('janitor'), ('canary');

-- How it went with a process that is fetched now and then to see whether all of Autos works.
create table canaries (
    process_number text        primary key check (process_number ~ '^[0-9]{20}$'),
    job_id         uuid,          -- the job that is under way; it may be forgotten
    submitted_at   timestamptz,
    succeeded_at   timestamptz,   -- when one was last complete
    took_s         real        check (took_s >= 0),  -- the last that ended, from its submission on
    failed_at      timestamptz,   -- when one last was not
    failure        text,

    constraint under_way_was_submitted check (job_id is null or submitted_at is not null),
    constraint failed_has_reason check ((failed_at is null) = (failure is null))
);

-- The portal's token -------------------------------------------------------------------------------

-- One row for each credential that was ever configured; all workers share it.
create table portal_tokens (
    credential_sha256 bytea       primary key check (octet_length(credential_sha256) = 32),
    access_token      text        check (access_token <> ''),
    obtained_at       timestamptz,
    expires_at        timestamptz,
    rejected_at       timestamptz,                        -- when the portal refused access_token
    refresh_token     text        check (refresh_token <> ''),  -- the only valid one, once there was a rotation
    fence             bigint      not null default 0,     -- raised by every claim; guards every write
    claimed_until     timestamptz,                        -- somebody is asking the sign-on server
    next_attempt_at   timestamptz not null default now(),
    last_error        text,
    refused_at        timestamptz,                        -- the sign-on server will have none of it
    refused_reason    text,

    constraint token_is_whole check (
        (access_token is null) = (obtained_at is null) and (access_token is null) = (expires_at is null)
    ),
    constraint only_a_token_is_rejected check (rejected_at is null or access_token is not null),
    constraint refused_has_reason check ((refused_at is null) = (refused_reason is null)),
    constraint refused_is_at_rest check (refused_at is null or claimed_until is null)
);

-- Guards -------------------------------------------------------------------------------------------

create function guard_job() returns trigger
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
create trigger guard_job before update on jobs for each row execute function guard_job();

create function guard_document() returns trigger
language plpgsql as $$
begin
    if not document_status_can_move(old.status, new.status) then
        raise exception 'document % cannot move from % to %', old.id, old.status, new.status
            using errcode = 'AU001';
    end if;
    -- Who changes documents under a job changes the job later in the same transaction, once.
    select id, sequence + 1 into new.news_job_id, new.news_sequence from jobs
    where process_number = new.process_number and status in ('pending', 'processing');
    new.news_sequence := coalesce(new.news_sequence, 0);
    return new;
end
$$;
create trigger guard_document before update on documents for each row
    when (old.status <> new.status) execute function guard_document();

create function guard_delivery() returns trigger
language plpgsql as $$
begin
    if not delivery_status_can_move(old.status, new.status) then
        raise exception 'delivery % cannot move from % to %', old.id, old.status, new.status
            using errcode = 'AU001';
    end if;
    return new;
end
$$;
create trigger guard_delivery before update on deliveries for each row
    when (old.status <> new.status) execute function guard_delivery();
