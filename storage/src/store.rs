//! The store: a directory with a RocksDB in it, one writer, one commit an epoch.
//!
//! ```text
//!   DIR/tidemark.format   the format version, readable without opening anything
//!   DIR/rocksdb/          the data
//!
//!   epoch 41 ──begin──▶ EpochCommit ──commit(42)──▶ WriteBatch + Key::Epoch = 42 ──▶ snapshot 42 replaces snapshot 41
//!                                         └── fails: the store is poisoned. It goes on reading epoch 41 and refuses every
//!                                             later commit, for nobody knows how much of this one is on disk.
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DEFAULT_COLUMN_FAMILY_NAME, FlushOptions,
    Options, WriteOptions,
};
use tidemark_common::{Epoch, Error, Result, SqlState};

use crate::commit::EpochCommit;
use crate::errors::from_rocksdb;
use crate::hot::HotRows;
use crate::keys::Key;
use crate::snapshot::Snapshot;
use crate::stats::{self, StoreStats};
use crate::value;

/// The version of everything this build writes. A change after which one build would misread what the other wrote raises it.
///
/// 2: a job's state holds when it was created and, once it is live, how many rows its backfill read. 3, 4: rows are kept by column.
pub const FORMAT_VERSION: u32 = 4;

const FORMAT_FILE: &str = "tidemark.format";
const ROCKSDB_DIR: &str = "rocksdb";
/// Reading gets slower with every range deletion in memory, so at this many they go to disk.
const MAX_RANGE_DELETIONS: usize = 1000;
/// Rows that are looked up often have this part of the memory for what was read.
const HOT_ROWS_SHARE: usize = 8;
/// Files that may lie in a directory which is to become a data directory.
const HARMLESS: [&str; 2] = ["lost+found", "tidemark.toml"];

#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Memory for blocks read from disk.
    pub block_cache_bytes: usize,
    /// Memory for writes before they become a table; up to four such buffers exist while the disk catches up.
    pub write_buffer_bytes: usize,
    /// Whether commits that ask for it wait until the disk has them. Off only where losing data does not matter.
    pub sync: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { block_cache_bytes: 256 << 20, write_buffer_bytes: 64 << 20, sync: true }
    }
}

pub struct Store {
    db: Arc<DB>,
    dir: PathBuf,
    sync: bool,
    current: RwLock<Arc<Snapshot>>,
    hot: Arc<HotRows>,
    /// Held while committing.
    writer: Mutex<Writer>,
}

#[derive(Debug, Default)]
struct Writer {
    /// Why nothing can be committed any more.
    refused: Option<Error>,
    /// For tests: what the next commit fails with.
    fail_next: Option<Error>,
    /// Range deletions written since memory was last moved to disk because of them.
    range_deletions: usize,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({}, epoch {})", self.dir.display(), self.epoch())
    }
}

impl Store {
    /// Opens the data directory `dir`, creating it if there is none.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<Arc<Store>> {
        prepare_directory(dir).map_err(|e| e.context(format!("data directory \"{}\"", dir.display())))?;
        let db = open_rocksdb(dir, options)?;
        check_stored_format(&db, dir)?;
        let epoch = match db.get(Key::Epoch.encode()).map_err(from_rocksdb)? {
            Some(stored) => value::decode(&stored)?,
            None => 0,
        };
        let db = Arc::new(db);
        let hot = Arc::new(HotRows::new(epoch, options.block_cache_bytes / HOT_ROWS_SHARE));
        let current = RwLock::new(Arc::new(Snapshot::new(Arc::clone(&db), epoch, Arc::clone(&hot))));
        let writer = Mutex::new(Writer::default());
        Ok(Arc::new(Store { db, dir: dir.to_path_buf(), sync: options.sync, current, hot, writer }))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The last committed epoch.
    pub fn epoch(&self) -> Epoch {
        self.snapshot().epoch()
    }

    /// The store as of the last committed epoch.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// An empty commit of the epoch after the last.
    pub fn begin(&self) -> EpochCommit {
        EpochCommit::new(self.epoch() + 1)
    }

    /// Writes `commit` as `epoch`, which follows the last one. With `sync` it is on disk when this returns.
    pub fn commit(&self, mut commit: EpochCommit, epoch: Epoch, sync: bool) -> Result<Arc<Snapshot>> {
        let mut writer = self.writer();
        if let Some(error) = &writer.refused {
            return Err(error.clone());
        }
        let last = self.epoch();
        if epoch != last + 1 || epoch != commit.epoch() {
            let begun = commit.epoch();
            let message = format!("a commit begun for epoch {begun} cannot be epoch {epoch}, after epoch {last}");
            return Err(Error::internal(message));
        }
        commit.put_value(&Key::Epoch, &epoch)?;
        let written = match writer.fail_next.take() {
            Some(error) => Err(error),
            None => self.write(&commit, epoch, sync),
        };
        if let Err(error) = written {
            let error = error.context(format!("epoch {epoch} could not be written"));
            writer.refused = Some(error.clone());
            return Err(error);
        }
        writer.range_deletions += commit.range_deletions();
        if writer.range_deletions > MAX_RANGE_DELETIONS {
            writer.range_deletions = 0;
            // This epoch is committed; if the disk fails now, the next one is not.
            writer.refused = self.start_flush().err();
        }
        Ok(self.publish(epoch))
    }

    /// Writes ahead what nobody reads before a later commit says that it is there, so that this commit stays small, or what changes
    /// nothing of what readers find. What a crash leaves of the former, [`Store::strays`] finds.
    pub fn prepare(&self, ahead: &EpochCommit) -> Result<Arc<Snapshot>> {
        let mut writer = self.writer();
        if let Some(error) = &writer.refused {
            return Err(error.clone());
        }
        if let Err(error) = self.write(ahead, self.epoch(), false) {
            writer.refused = Some(error.clone());
            return Err(error);
        }
        Ok(self.publish(self.epoch()))
    }

    /// From here on readers see what is written now.
    fn publish(&self, epoch: Epoch) -> Arc<Snapshot> {
        let snapshot = Arc::new(Snapshot::new(Arc::clone(&self.db), epoch, Arc::clone(&self.hot)));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
        snapshot
    }

    /// Why commits are refused, if they are.
    pub fn poisoned(&self) -> Option<Error> {
        self.writer().refused.clone()
    }

    pub fn stats(&self) -> Result<StoreStats> {
        stats::collect(&self.db, self.epoch())
    }

    /// Writes everything out, so that the next opening has nothing to replay, and refuses commits from now on. The
    /// directory is free for others when the last snapshot is dropped.
    pub fn close(&self) -> Result<()> {
        let mut writer = self.writer();
        if writer.refused.is_none() {
            writer.refused = Some(Error::new(SqlState::AdminShutdown, "the store is closed"));
            self.db.flush_wal(true).map_err(from_rocksdb)?;
            self.db.flush().map_err(from_rocksdb)?;
        }
        self.db.cancel_all_background_work(true);
        Ok(())
    }

    /// Moves what is in memory to tables on disk. For tests and measurements.
    #[doc(hidden)]
    pub fn flush(&self) -> Result<()> {
        self.db.flush().map_err(from_rocksdb)
    }

    /// Makes the next commit fail before it writes anything.
    #[doc(hidden)]
    pub fn fail_next_commit(&self, error: Error) {
        self.writer().fail_next = Some(error);
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what is in memory moved to disk, without waiting for it.
    fn start_flush(&self) -> Result<()> {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        self.db.flush_opt(&options).map_err(from_rocksdb)
    }

    fn write(&self, commit: &EpochCommit, epoch: Epoch, sync: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.set_sync(sync && self.sync);
        options.set_memtable_insert_hint_per_batch(true); // entries come sorted
        self.db.write_opt(commit.to_batch(), &options).map_err(from_rocksdb)?;
        self.hot.forget(epoch, commit.written());
        Ok(())
    }
}

/// Makes sure that `dir` is a data directory whose format this build reads.
fn prepare_directory(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    let format_file = dir.join(FORMAT_FILE);
    match fs::read_to_string(&format_file) {
        Ok(text) => {
            let version = text.trim().parse().map_err(|_| {
                Error::new(SqlState::DataCorrupted, format!("{FORMAT_FILE} does not hold a format version: {text:?}"))
            })?;
            check_format(version)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            refuse_foreign(dir)?;
            let temporary = dir.join(format!("{FORMAT_FILE}.new"));
            let mut file = fs::File::create(&temporary)?;
            writeln!(file, "{FORMAT_VERSION}")?;
            file.sync_all()?;
            fs::rename(&temporary, &format_file)?;
            Ok(fs::File::open(dir)?.sync_all()?)
        }
        Err(e) => Err(e.into()),
    }
}

fn check_format(version: u32) -> Result<()> {
    match version {
        FORMAT_VERSION => Ok(()),
        0 => Err(Error::new(SqlState::DataCorrupted, "it has format version 0, which never existed")),
        older if older < FORMAT_VERSION => Err(Error::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("it has format version {older}, written by an older Tidemark; this one reads {FORMAT_VERSION}"),
        )
        .with_hint(
            "Start the version of Tidemark that wrote it, take the tables out with COPY .. TO, and load them into a new \
             data directory.",
        )),
        newer => Err(Error::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("it has format version {newer}, written by a newer Tidemark; this one is older and reads {FORMAT_VERSION}"),
        )
        .with_hint("Start the version of Tidemark that wrote it, or a later one.")),
    }
}

/// A directory with somebody else's files does not become ours.
fn refuse_foreign(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !HARMLESS.contains(&name.as_ref()) && !name.starts_with(FORMAT_FILE) {
            return Err(Error::new(
                SqlState::ObjectNotInPrerequisiteState,
                format!("it is not empty and not a Tidemark data directory: it holds \"{name}\""),
            )
            .with_hint("Choose an empty directory, or one that does not exist yet."));
        }
    }
    Ok(())
}

/// The version inside the store agrees with the file's, unless somebody copied one without the other.
fn check_stored_format(db: &DB, dir: &Path) -> Result<()> {
    let key = Key::Format.encode();
    match db.get(&key).map_err(from_rocksdb)? {
        Some(stored) => check_format(value::decode(&stored)?)
            .map_err(|e| e.context(format!("data directory \"{}\"", dir.display()))),
        None => {
            let mut options = WriteOptions::default();
            options.set_sync(true);
            db.put_opt(key, value::encode(&FORMAT_VERSION)?, &options).map_err(from_rocksdb)
        }
    }
}

fn open_rocksdb(dir: &Path, options: &StoreOptions) -> Result<DB> {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get()).clamp(2, 16);
    let db_options = rocksdb_options(options, cores);
    let family = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, db_options.clone());
    DB::open_cf_descriptors(&db_options, dir.join(ROCKSDB_DIR), [family]).map_err(|error| {
        let text = error.as_ref();
        // Another process: "While lock file: .."; this one: "lock hold by current process, ..".
        if text.contains("lock file") || text.contains("lock hold by current process") {
            return Error::new(
                SqlState::LockFileExists,
                format!("data directory \"{}\" is in use by another Tidemark server", dir.display()),
            )
            .with_detail(text.to_string())
            .with_hint("Stop the other server, or give this one a data directory of its own.");
        }
        from_rocksdb(error).context(format!("data directory \"{}\" cannot be opened", dir.display()))
    })
}

/// Levels near the top in lz4, the bottom one in zstd; filters on whole keys; indexes and filters inside the block cache,
/// so that its size bounds what reading takes.
fn rocksdb_options(options: &StoreOptions, cores: usize) -> Options {
    let mut blocks = BlockBasedOptions::default();
    let cache = options.block_cache_bytes - options.block_cache_bytes / HOT_ROWS_SHARE;
    blocks.set_block_cache(&Cache::new_lru_cache(cache));
    blocks.set_block_size(16 << 10);
    blocks.set_format_version(6);
    blocks.set_bloom_filter(10.0, false);
    // In parts of a block's size: the filter of a large file is larger than a shard of the cache, and would be read for every key.
    blocks.set_index_type(rocksdb::BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(16 << 10);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);

    let mut db = Options::default();
    db.create_if_missing(true);
    db.set_block_based_table_factory(&blocks);
    db.set_write_buffer_size(options.write_buffer_bytes);
    db.set_max_write_buffer_number(4);
    db.set_max_total_wal_size(4 * options.write_buffer_bytes as u64);
    db.set_target_file_size_base(options.write_buffer_bytes.max(1 << 20) as u64);
    db.set_max_bytes_for_level_base(4 * options.write_buffer_bytes.max(1 << 20) as u64);
    db.set_level_compaction_dynamic_level_bytes(true);
    db.set_compression_type(DBCompressionType::Lz4);
    db.set_bottommost_compression_type(DBCompressionType::Zstd);
    db.set_max_background_jobs(cores.div_ceil(2).max(2) as i32);
    db.set_max_subcompactions((cores / 4).max(1) as u32);
    db.set_bytes_per_sync(1 << 20);
    db.set_wal_bytes_per_sync(1 << 20);
    db.set_max_open_files(1024);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(8 << 20);
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::StateId;

    fn small() -> StoreOptions {
        StoreOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, sync: false }
    }

    fn put(store: &Store, oid: u32, text: &str) -> Result<Arc<Snapshot>> {
        let mut commit = store.begin();
        commit.put_value(&Key::Object(oid), text)?;
        store.commit(commit, store.epoch() + 1, true)
    }

    fn object(snapshot: &Snapshot, oid: u32) -> Option<String> {
        snapshot.get_value(&Key::Object(oid)).unwrap()
    }

    #[test]
    fn a_snapshot_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/on/demand");
        let store = Store::open(&path, &StoreOptions::default()).unwrap();
        assert_eq!(store.epoch(), 0);
        let empty = store.snapshot();
        let one = put(&store, 1, "a").unwrap();
        let two = put(&store, 1, "b").unwrap();
        assert_eq!(object(&empty, 1), None);
        assert_eq!(object(&one, 1).as_deref(), Some("a"));
        assert_eq!(object(&two, 1).as_deref(), Some("b"));
        assert_eq!((one.epoch(), two.epoch(), store.epoch()), (1, 2, 2));
        store.close().unwrap();
        assert_eq!(put(&store, 1, "c").unwrap_err().state(), SqlState::AdminShutdown);
        drop((store, empty, one, two));

        let store = Store::open(&path, &small()).unwrap();
        assert_eq!(store.epoch(), 2);
        assert_eq!(object(&store.snapshot(), 1).as_deref(), Some("b"));
    }

    #[test]
    fn many_keys_are_found_wherever_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &small()).unwrap();
        let mut commit = store.begin();
        for oid in (1000..3000).step_by(2) {
            commit.put_value(&Key::Object(oid), &oid).unwrap();
        }
        store.commit(commit, 1, false).unwrap();
        let mut commit = store.begin();
        (1500..1900).for_each(|oid| commit.delete(&Key::Object(oid)));
        let snapshot = store.commit(commit, 2, false).unwrap();
        // In front of all, around their first and their last, among the deleted, up to and from behind them, behind all, few.
        for oids in [0..500, 900..1100, 2900..3100, 1500..1900, 1400..1600, 1800..3500, 3000..3500, 1490..1510] {
            for step in [1, 2, 7] {
                let keys: Vec<Key<'_>> = oids.clone().rev().step_by(step).map(Key::Object).collect();
                let one_by_one: Vec<_> = keys.iter().map(|key| snapshot.get(key).unwrap()).collect();
                assert_eq!(snapshot.multi_get(&keys).unwrap(), one_by_one, "{oids:?} by {step}");
            }
        }
    }

    #[test]
    fn range_deletions_do_not_pile_up_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &small()).unwrap();
        let mut commit = store.begin();
        for oid in 0..=MAX_RANGE_DELETIONS as u32 {
            commit.delete_state(StateId::new(oid, 0));
        }
        commit.put_value(&Key::Object(1), "a").unwrap();
        store.commit(commit, 1, false).unwrap();
        store.flush().unwrap(); // waits for the flush that was started
        assert_eq!(object(&put(&store, 2, "b").unwrap(), 1).as_deref(), Some("a"));
        assert_eq!(store.writer().range_deletions, 0);
    }

    #[test]
    fn what_readers_share_may_cross_threads() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<Store>();
        shared::<Snapshot>();
        shared::<EpochCommit>();
        shared::<crate::Collection>();
        fn moved<T: Send + 'static>() {}
        moved::<crate::Scan>();
        moved::<crate::CollectionScan>();
        moved::<crate::KeyedState>();
        moved::<crate::CollectionWriter>();
    }

    #[test]
    fn epochs_follow_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &small()).unwrap();
        for wrong in [0, 2] {
            let error = store.commit(store.begin(), wrong, false).unwrap_err();
            assert_eq!(error.state(), SqlState::Internal);
        }
        store.commit(store.begin(), 1, false).unwrap();
        assert!(store.poisoned().is_none());
    }

    #[test]
    fn a_failed_commit_stops_writing_and_leaves_reading() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &small()).unwrap();
        put(&store, 1, "kept").unwrap();
        store.fail_next_commit(Error::new(SqlState::DiskFull, "no room"));
        let first = put(&store, 1, "lost").unwrap_err();
        assert_eq!(first.state(), SqlState::DiskFull);
        let second = put(&store, 1, "refused").unwrap_err();
        assert_eq!((second.state(), second.message()), (first.state(), first.message()));
        assert_eq!(store.poisoned().unwrap().message(), first.message());
        assert_eq!(object(&store.snapshot(), 1).as_deref(), Some("kept"));
        assert_eq!(store.epoch(), 1);
        drop(store);
        let store = Store::open(dir.path(), &small()).unwrap();
        assert_eq!(object(&store.snapshot(), 1).as_deref(), Some("kept"));
        put(&store, 1, "on").unwrap();
    }

    #[test]
    fn a_second_server_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &small()).unwrap();
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert_eq!(error.state(), SqlState::LockFileExists);
        assert!(error.message().contains(&dir.path().display().to_string()), "{error}");
        assert!(error.hint().is_some());
        drop(store);
        Store::open(dir.path(), &small()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused_politely() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), &small()).unwrap());
        fs::write(dir.path().join(FORMAT_FILE), "7\n").unwrap();
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert_eq!(error.state(), SqlState::ObjectNotInPrerequisiteState);
        assert!(error.message().contains("format version 7"), "{error}");
        assert!(error.message().contains("older"), "{error}");

        // The same when only the store itself says so.
        fs::write(dir.path().join(FORMAT_FILE), format!("{FORMAT_VERSION}\n")).unwrap();
        let db = DB::open(&Options::default(), dir.path().join(ROCKSDB_DIR)).unwrap();
        db.put(Key::Format.encode(), value::encode(&8u32).unwrap()).unwrap();
        drop(db);
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert_eq!(error.state(), SqlState::ObjectNotInPrerequisiteState);
        assert!(error.message().contains("format version 8"), "{error}");
    }

    #[test]
    fn an_older_format_is_refused_politely() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path(), &small()).unwrap());
        fs::write(dir.path().join(FORMAT_FILE), "1\n").unwrap();
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert_eq!(error.state(), SqlState::ObjectNotInPrerequisiteState);
        assert!(error.message().contains("format version 1, written by an older"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("COPY")), "{error:?}");
        // It is left as it was.
        assert_eq!(fs::read_to_string(dir.path().join(FORMAT_FILE)).unwrap(), "1\n");
    }

    #[test]
    fn somebody_elses_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.doc"), "").unwrap();
        let error = Store::open(dir.path(), &small()).unwrap_err();
        assert_eq!(error.state(), SqlState::ObjectNotInPrerequisiteState);
        assert!(error.message().contains("thesis.doc"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "it was left alone");

        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Store::open(file.path(), &small()).is_err());
    }

    #[test]
    fn ranges_are_deleted_and_shards_joined() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &small()).unwrap();
        let (a, b) = (StateId::new(1, 0), StateId::new(1, 1));
        let mut commit = store.begin();
        for key in 0..4u8 {
            commit.put_value(&Key::Row { collection: a, key: &[key] }, &key).unwrap();
        }
        let mut other = store.begin();
        other.put_value(&Key::State { state: b, key: &[1] }, "x").unwrap();
        other.put_value(&Key::Outbox { sink: 5, epoch: 1, seq: 0 }, "r").unwrap();
        other.put_value(&Key::Outbox { sink: 5, epoch: 2, seq: 0 }, "s").unwrap();
        other.delete(&Key::Row { collection: a, key: &[3] });
        commit.append(&other);
        assert_eq!(commit.entries(), 8);
        let snapshot = store.commit(commit, 1, false).unwrap();
        let rows = Key::rows(a);
        assert_eq!(snapshot.scan(&rows.start, &rows.end).count(), 3);

        let mut commit = store.begin();
        commit.delete_collection(a);
        commit.put_value(&Key::Row { collection: a, key: &[9] }, &9u8).unwrap();
        commit.delete_state(b);
        commit.delete_outbox_through(5, 1);
        let snapshot = store.commit(commit, 2, false).unwrap();
        let left: Vec<_> = snapshot.scan(&rows.start, &rows.end).map(|e| e.unwrap().0).collect();
        assert_eq!(left, [Key::Row { collection: a, key: &[9] }.encode()]);
        assert_eq!(snapshot.get(&Key::State { state: b, key: &[1] }).unwrap(), None);
        let outbox = Key::outbox(5);
        assert_eq!(snapshot.scan(&outbox.start, &outbox.end).count(), 1);
        assert_eq!(snapshot.last(&outbox.start, &outbox.end).unwrap().unwrap().1, value::encode("s").unwrap());
    }

    #[test]
    fn scans_and_gets_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &small()).unwrap();
        let mut commit = store.begin();
        for oid in 0..3000u32 {
            commit.put_value(&Key::Object(oid), &oid).unwrap();
        }
        let snapshot = store.commit(commit, 1, false).unwrap();
        let all = Key::objects();
        let forward: Vec<_> = snapshot.scan(&all.start, &all.end).map(|e| e.unwrap()).collect();
        let mut reverse: Vec<_> = snapshot.scan_reverse(&all.start, &all.end).map(|e| e.unwrap()).collect();
        assert_eq!(forward.len(), 3000);
        assert!(forward.is_sorted());
        reverse.reverse();
        assert_eq!(forward, reverse);
        assert_eq!(snapshot.scan(&all.end, &all.start).count(), 0);

        let oids: Vec<u32> = (0..3001).rev().collect();
        let keys: Vec<Key> = oids.iter().map(|&oid| Key::Object(oid)).collect();
        let values = snapshot.multi_get(&keys).unwrap();
        assert_eq!(values[0], None);
        for (oid, value) in oids.iter().zip(&values).skip(1) {
            assert_eq!(value::decode::<u32>(value.as_ref().unwrap()).unwrap(), *oid);
        }
        let stats = store.stats().unwrap();
        assert_eq!(stats.epoch, 1);
        assert!(stats.entries >= 3000 && stats.memtable_bytes > 0, "{stats:?}");
        store.flush().unwrap();
        let objects = store.stats().unwrap().bytes_by_kind[0];
        assert!(objects.0 == "objects" && objects.1 > 1000, "{objects:?}");
    }
}
