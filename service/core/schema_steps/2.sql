-- Of a source that tells when a process last changed: while it tells the same, no list is read again.
create table known_lists (
    process_number text        primary key references processes on delete cascade,
    changed_at     timestamptz not null,  -- what the source called its last change just before the list was read
    listed_at      timestamptz not null,  -- of the process, if nobody listed it otherwise since
    read_at        timestamptz not null   -- when the list itself was last read
);
