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
