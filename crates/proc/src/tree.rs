//! Who descends from whom: `/proc`, read once, and the processes that came from one child.
//!
//! A number alone never names a process, since numbers are used again. A process is its number and its start
//! time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, getpid, kill_process,
    kill_process_group, pidfd_open, pidfd_send_signal, set_child_subreaper, waitid, waitpid,
};

use crate::cage::{self, Cage};
use crate::mark::carries;

/// Bytes of `/proc/PID/stat` that hold all that is read of it: a name of 64, and 21 numbers.
const STAT: usize = 1024;

/// The children this crate has started and not reaped, by number with their start time.
static REGISTRY: Mutex<Registry> = Mutex::new(Registry { spawning: 0, children: BTreeMap::new() });

/// Whether all descendants that lose their parents become children of this process.
static SUBREAPER: AtomicBool = AtomicBool::new(false);

struct Registry {
    /// How many children are being started: born perhaps, but not among `children` yet.
    spawning: usize,
    /// The start time is 0 if it could not be read.
    children: BTreeMap<u32, u64>,
}

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held while a child is being started, so that [`reap_orphans`] does not take it for an orphan.
pub(crate) struct Spawning(());

impl Spawning {
    /// Leave to start a child, where there are fewer than `most`.
    pub(crate) fn begin(most: usize) -> Option<Self> {
        let mut registry = registry();
        if registry.spawning + registry.children.len() >= most {
            return None;
        }
        registry.spawning += 1;
        Some(Self(()))
    }

    /// The child is there: returns its start time, or 0 if `/proc` cannot be read.
    pub(crate) fn register(self, pid: u32) -> u64 {
        let started = start_time(pid).unwrap_or(0);
        let mut registry = registry();
        // Both at once: nobody finds the child counted twice, or not at all.
        registry.children.insert(pid, started);
        registry.spawning -= 1;
        std::mem::forget(self);
        started
    }
}

impl Drop for Spawning {
    fn drop(&mut self) {
        registry().spawning -= 1;
    }
}

/// Reaps a registered child through `wait`. No orphan is reaped meanwhile, and none can be mistaken for it
/// afterwards.
pub(crate) fn reap_registered(pid: u32, wait: impl FnOnce()) {
    let mut registry = registry();
    wait();
    registry.children.remove(&pid);
}

/// Makes the daemon the parent of every descendant whose own parent is gone.
///
/// They then stay findable, and must be reaped: call [`reap_orphans`] now and then. To be called before the first child
/// is started: those that were orphaned before have become another's.
///
/// # Errors
/// What the system said.
pub fn become_subreaper() -> io::Result<()> {
    heed_children();
    set_child_subreaper(Some(getpid()))?;
    SUBREAPER.store(true, Ordering::Relaxed);
    Ok(())
}

/// Takes back that SIGCHLD is ignored, as a process may inherit it: the kernel then reaps every child at once, its
/// status is lost, and its number is another's while we still signal it.
#[expect(unsafe_code, reason = "signal dispositions are only reachable through libc")]
fn heed_children() {
    let mut present = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the structure is plain numbers, for which zeroes are valid, and outlives the call that fills it. Only a
    // disposition that was "ignore" is changed, so that the handler of a runtime stays.
    unsafe {
        libc::sigaction(libc::SIGCHLD, std::ptr::null(), present.as_mut_ptr());
        if present.assume_init().sa_sigaction == libc::SIG_IGN {
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        }
    }
}

/// Reaps the dead processes that the daemon adopted, and returns how many there were.
///
/// Children that this crate has started are left alone: their exit status belongs to their
/// [`Process`](crate::Process). So are those for which `known` says true; it is for children that others
/// started. It must not call back into this crate. Where `/proc` cannot be read, none is reaped. Waits for nobody, but
/// reads all of `/proc`, on the thread of whoever calls.
pub fn reap_orphans(known: &dyn Fn(u32) -> bool) -> usize {
    cage::sweep();
    let before = registry().children.clone();
    // Not under the lock: who starts or reaps a child does not wait for this.
    let Some(table) = read_table() else { return 0 };
    let mut registry = registry();
    if registry.spawning > 0 {
        // One of the dead might be a child whose number is not known yet; there will be a next time.
        return 0;
    }
    // A child whose `Process` was dropped is reaped by the runtime, which tells nobody. Where its start time is not
    // known, the table cannot tell either.
    registry.children.retain(|pid, started| *started != 0 || !is_no_child(*pid));
    // Of those that were started since, the table knows nothing.
    let is_new = |pid: &u32, started: &u64| before.get(pid) != Some(started);
    registry
        .children
        .retain(|pid, started| *started == 0 || is_new(pid, started) || is_same(&table, *pid, *started));
    let daemon = std::process::id();
    table
        .values()
        .filter(|entry| entry.dead && entry.parent == daemon)
        .filter(|entry| !registry.children.contains_key(&entry.pid) && !known(entry.pid))
        .filter(|entry| reap(entry.pid))
        .count()
}

/// One line of `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pid: u32,
    parent: u32,
    group: u32,
    session: u32,
    started: u64,
    /// Ended, and perhaps not reaped.
    dead: bool,
    /// Waits in the kernel, and no signal ends that. Mostly for a disk, and soon over.
    stuck: bool,
}

pub(crate) type Table = BTreeMap<u32, Entry>;

/// A child and all that came from it, as far as it can be seen.
///
/// Found are: everything in a session that the child or one of its descendants leads; every descendant whose line
/// of parents is unbroken when looked at; whoever carries the child's mark or is in its cage, in a new session and
/// with a dead parent too; and the sessions and descendants of those. What was found once is remembered.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    /// The group that is signalled at once: that of a child of ours which is not reaped, so that the number cannot
    /// be another's. A leftover has none.
    group: Option<Pid>,
    members: BTreeMap<u32, u64>,
    /// The sessions led by members. Their numbers are not used again while anybody is in them, and no longer.
    sessions: BTreeMap<u32, u64>,
    /// When the first of it was started: nobody of it is older. 0 if that is not known yet.
    since: u64,
    mark: String,
    /// One at most, but of a run those of all its children.
    cages: Vec<Arc<Cage>>,
    /// Those whose environment was read and holds no mark. Nobody gets one later.
    unmarked: BTreeMap<u32, u64>,
}

impl Family {
    /// The family of a child that this daemon has just started.
    pub(crate) fn new(root: Pid, started: u64, mark: String, cage: Option<Cage>) -> Self {
        let first = BTreeMap::from([(number(root), started)]);
        Self {
            group: Some(root),
            members: first.clone(),
            sessions: first,
            since: started,
            mark,
            cages: cage.map(Arc::new).into_iter().collect(),
            unmarked: BTreeMap::new(),
        }
    }

    /// The family of a child that a former daemon started; `None` if that cannot be known now.
    pub(crate) fn left(table: &Table, pid: u32, started: u64, mark: &str) -> Option<Self> {
        let first = BTreeMap::from([(pid, started)]);
        // Without its leader a session may be that of a later process with the same number. It then is ours only
        // if one of its members is found by other means.
        let led = is_same(table, pid, started);
        let mut family = Self {
            group: None,
            sessions: if led { first.clone() } else { BTreeMap::new() },
            members: first,
            since: started,
            mark: mark.to_owned(),
            cages: Vec::new(),
            unmarked: BTreeMap::new(),
        };
        let living: Vec<u32> = family.look_at(table)?.iter().map(|entry| entry.pid).collect();
        let spared = spared(table, std::process::id());
        family.cages = Cage::find(mark, &living, &spared).into_iter().map(Arc::new).collect();
        Some(family)
    }

    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    /// Looks for members, remembers them, reaps those that are dead and ours to reap, and returns those that
    /// live. `None` if that cannot be known now, which is not to be taken for nobody: all stays as it was seen last.
    ///
    /// Reads all of `/proc`: some microseconds for each process of the machine, on the thread of whoever calls. For who
    /// can wait there is [`Kin::look`](crate::look::Kin::look).
    pub(crate) fn look(&mut self) -> Option<Vec<Entry>> {
        self.look_at(&read_table()?)
    }

    /// The same with a table that was read already.
    pub(crate) fn look_at(&mut self, table: &Table) -> Option<Vec<Entry>> {
        let daemon = std::process::id();
        let spared = spared(table, daemon);
        // After the table: a number that has gone to another meanwhile then comes with the old start time, and is
        // not signalled.
        let strays = self.strays(table, &spared)?;
        let (living, dead) = self.admit(table, &strays, &spared);
        for entry in dead {
            // The root is kept: as long as it is not reaped, its number names this group and no other.
            if entry.parent == daemon && self.group.is_none_or(|root| entry.pid != number(root)) {
                reap_unregistered(entry.pid);
            }
        }
        Some(living)
    }

    /// The numbers of those that are in the cages, and of those not seen yet that carry the mark; `None` if that cannot
    /// be known now.
    ///
    /// To read an environment may have to wait for its process's memory, so few are read: of a child of ours, those
    /// that were adopted, by us or, as long as we do not adopt, by whoever adopts from us. Who adopted a leftover cannot
    /// be known. Nor is any read of a process that is stuck in the kernel, perhaps with its memory locked.
    fn strays(&mut self, table: &Table, spared: &BTreeSet<u32>) -> Option<Vec<u32>> {
        let mut strays = Vec::new();
        for cage in &self.cages {
            strays.extend(cage.members()?);
        }
        if self.mark.is_empty() {
            return Some(strays);
        }
        let daemon = std::process::id();
        let adopts = SUBREAPER.load(Ordering::Relaxed);
        self.unmarked.retain(|pid, started| is_same(table, *pid, *started));
        let children: BTreeSet<u32> = registry().children.keys().copied().collect();
        for entry in table.values() {
            let adopter = if adopts { entry.parent == daemon } else { spared.contains(&entry.parent) };
            let adopted = self.group.is_none() || adopter;
            let known = self.members.contains_key(&entry.pid) || self.unmarked.contains_key(&entry.pid);
            let asked = !entry.dead && !entry.stuck && entry.started >= self.since && adopted && !known;
            if !asked || children.contains(&entry.pid) {
                continue;
            }
            match carries(entry.pid, &self.mark).ok()? {
                Some(true) => strays.push(entry.pid),
                Some(false) => {
                    self.unmarked.insert(entry.pid, entry.started);
                }
                None => {}
            }
        }
        Some(strays)
    }

    fn admit(&mut self, table: &Table, strays: &[u32], spared: &BTreeSet<u32>) -> (Vec<Entry>, Vec<Entry>) {
        // Of a child that is not reaped the start time can be learnt later: its number is still its own.
        if self.since == 0
            && let Some(root) = self.group.and_then(|root| table.get(&number(root)))
            && root.parent == std::process::id()
        {
            self.since = root.started;
            self.members.insert(root.pid, root.started);
            self.sessions.insert(root.pid, root.started);
        }
        self.members.retain(|pid, started| is_same(table, *pid, *started));
        let inhabited: BTreeSet<u32> = table.values().map(|entry| entry.session).collect();
        let root = self.group.map(number);
        self.sessions.retain(|leader, started| {
            // A child that is not reaped keeps its session, also where it cannot be seen itself.
            let stays = inhabited.contains(leader) || root == Some(*leader);
            stays && (!table.contains_key(leader) || is_same(table, *leader, *started))
        });
        let free = |entry: &&Entry| !spared.contains(&entry.pid);
        for entry in strays.iter().filter_map(|pid| table.get(pid)).filter(free) {
            self.members.insert(entry.pid, entry.started);
            // Nobody enters a session that others made: this one was made by a member too. A session of 0 is one
            // that cannot be seen from here.
            if entry.session != 0 && !spared.contains(&entry.session) {
                // 0 for a leader that is gone: whoever gets its number will have been started at another time.
                let started = table.get(&entry.session).map_or(0, |leader| leader.started);
                self.sessions.entry(entry.session).or_insert(started);
            }
        }
        loop {
            let mut grown = false;
            for entry in table.values().filter(free) {
                let by_session = self.sessions.contains_key(&entry.session);
                // A child is never older than its parent: otherwise the parent's number is a later process's.
                let by_descent =
                    || self.members.get(&entry.parent).is_some_and(|started| *started <= entry.started);
                if by_session || by_descent() {
                    grown |= self.members.insert(entry.pid, entry.started).is_none();
                    if entry.session == entry.pid {
                        grown |= self.sessions.insert(entry.pid, entry.started).is_none();
                    }
                }
            }
            if !grown {
                break;
            }
        }
        self.members.keys().filter_map(|pid| table.get(pid).copied()).partition(|entry| !entry.dead)
    }

    /// Signals the child's group at once, then those of the `living` that left it, one by one; SIGKILL goes to the
    /// cages as well.
    ///
    /// If somebody has reaped the child, the number of its group may be another's, and all are signalled one by one.
    pub(crate) fn signal(&self, living: &[Entry], signal: Signal) {
        let group = self.group.filter(|root| !is_no_child(number(*root)));
        if let Some(group) = group {
            // What is gone, or has become another user's, cannot be signalled; the next look tells.
            let _ = kill_process_group(group, signal);
        }
        for entry in living {
            signal_outside(group.map(number), entry, signal);
        }
        if signal == Signal::KILL {
            self.cages.iter().for_each(|cage| cage.kill());
        }
    }
}

/// Those that are never taken for anybody's family: process 1, this one, and its ancestors. They are also those that
/// adopt whoever of our descendants loses its parent.
fn spared(table: &Table, daemon: u32) -> BTreeSet<u32> {
    let mut spared = BTreeSet::from([1]);
    let mut pid = daemon;
    while spared.insert(pid)
        && let Some(entry) = table.get(&pid)
    {
        pid = entry.parent;
    }
    spared
}

/// Signals this process, unless it is in the group, which was signalled before; or nobody if its number has gone to
/// another. Whether it is in the group is asked now: it may have left after it was looked at.
fn signal_outside(group: Option<u32>, entry: &Entry, signal: Signal) {
    let Some(pid) = Pid::from_raw(entry.pid.cast_signed()) else { return };
    let descriptor = pidfd_open(pid, PidfdFlags::empty());
    // Asked after opening: the descriptor then names this process, whatever becomes of the number.
    let now = read_entry(entry.pid).ok().flatten();
    if now.is_none_or(|now| now.started != entry.started || group == Some(now.group)) {
        return;
    }
    let _ = match descriptor {
        Ok(descriptor) => pidfd_send_signal(descriptor, signal),
        // No descriptor to spare is no reason to let it live.
        Err(_) => kill_process(pid, signal),
    };
}

/// Whether this is a child of this daemon, started by this crate and not reaped.
pub(crate) fn is_child(pid: u32, started: u64) -> bool {
    registry().children.get(&pid) == Some(&started)
}

/// What is known of the end of a child, which stays unreaped; `ECHILD` if this is no child, or none any more.
pub(crate) fn peek_at(pid: Pid) -> rustix::io::Result<Option<WaitIdStatus>> {
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// Whether no child of this process has this number, dead or alive.
fn is_no_child(pid: u32) -> bool {
    Pid::from_raw(pid.cast_signed()).is_none_or(|pid| matches!(peek_at(pid), Err(Errno::CHILD)))
}

/// Reaps an adopted process; a child that this crate has started belongs to its `Process`.
fn reap_unregistered(pid: u32) {
    let registry = registry();
    if !registry.children.contains_key(&pid) {
        reap(pid);
    }
}

fn reap(pid: u32) -> bool {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else { return false };
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(status) => return status.is_some(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

fn is_same(table: &Table, pid: u32, started: u64) -> bool {
    table.get(&pid).is_some_and(|entry| entry.started == started)
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// Whether the numbers in `/proc` are those that we know processes by: it may be that of another namespace, or hidden.
fn is_our_proc() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let own = std::fs::read_link("/proc/self");
        own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
    })
}

fn start_time(pid: u32) -> Option<u64> {
    if !is_our_proc() {
        return None;
    }
    Some(read_entry(pid).ok()??.started)
}

/// All processes that can be seen; `None` if that cannot be known now, for want of descriptors, say. An empty table would
/// mean that nobody lives.
pub(crate) fn read_table() -> Option<Table> {
    if !is_our_proc() {
        return None;
    }
    let mut table = Table::new();
    for file in std::fs::read_dir("/proc").ok()? {
        let name = file.ok()?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(entry) = read_entry(pid).ok()? {
            table.insert(pid, entry);
        }
    }
    Some(table)
}

/// What `/proc` says of a process; `None` if it is gone, or hidden from us as those of other users may be.
///
/// # Errors
/// The system said something else: nothing is known of it.
#[expect(clippy::disallowed_methods, reason = "/proc is memory: reading it waits for no device")]
fn read_entry(pid: u32) -> io::Result<Option<Entry>> {
    // A file of `/proc` has no size, and whoever asks for all of it asks many times. What counts comes first.
    let mut stat = [0; STAT];
    let mut read = || loop {
        match std::fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut stat) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    };
    match read() {
        // One that is just being reaped has no session any more, and does not parse.
        Ok(length) => Ok(parse(pid, &stat[..length])),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The name, the second field, may contain anything, brackets and blanks included: what counts comes after
/// its last bracket.
fn parse(pid: u32, stat: &[u8]) -> Option<Entry> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> =
        std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace().collect();
    // proc(5) counts from 1 and counts the two fields before.
    let field = |position: usize| fields.get(position - 3).copied();
    let threads: u32 = field(20)?.parse().ok()?;
    Some(Entry {
        pid,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        started: field(22)?.parse().ok()?,
        // A first thread that has ended while others run looks like a zombie, but the process lives.
        dead: matches!(field(3)?, "Z" | "X" | "x") && threads <= 1,
        stuck: field(3)? == "D",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::sleep;

    fn entry(pid: u32, parent: u32, session: u32, started: u64) -> Entry {
        Entry { pid, parent, group: session, session, started, dead: false, stuck: false }
    }

    fn table(entries: &[Entry]) -> Table {
        entries.iter().map(|entry| (entry.pid, *entry)).collect()
    }

    fn family() -> Family {
        Family::new(Pid::from_raw(100).expect("not zero"), 1000, String::new(), None)
    }

    fn living(family: &mut Family, entries: &[Entry]) -> Vec<u32> {
        living_with(family, entries, &[])
    }

    fn living_with(family: &mut Family, entries: &[Entry], strays: &[u32]) -> Vec<u32> {
        let table = table(entries);
        let (living, _) = family.admit(&table, strays, &spared(&table, 7));
        living.iter().map(|entry| entry.pid).collect()
    }

    #[test]
    fn a_name_may_contain_anything() {
        let stat = b"42 (a) R 1 (b \xff)) S 7 8 9 0 -1 4194304 98 0 0 0 0 0 0 0 20 0 1 0 104824 3133440";
        let entry = parse(42, stat).expect("a well-formed line");
        assert_eq!(entry, Entry { group: 8, ..self::entry(42, 7, 9, 104_824) });
        assert_eq!(parse(42, b"42 (cut off) S 7"), None);
        let stat = b"42 (disk) D 7 8 9 0 -1 4194304 98 0 0 0 0 0 0 0 20 0 1 0 104824 3133440";
        let entry = parse(42, stat).expect("a well-formed line");
        assert_eq!(entry, Entry { group: 8, stuck: true, ..self::entry(42, 7, 9, 104_824) });
        let reaped = b"42 (gone) X 0 -1 -1 0 -1 4194304 98 0 0 0 0 0 0 0 20 0 0 0 104824 0";
        assert_eq!(parse(42, reaped), None);
    }

    #[test]
    fn this_process_is_in_proc() {
        let own = std::process::id();
        let table = read_table().expect("a readable /proc");
        let entry = table.get(&own).expect("we live");
        assert!(!entry.dead && entry.parent > 0);
        assert_eq!(start_time(own), Some(entry.started));
    }

    #[test]
    fn sessions_and_descent_both_count() {
        let entries = [
            entry(1, 0, 1, 1),
            entry(100, 1, 100, 1000),
            // Left the session, and is listed before its parent.
            entry(90, 150, 90, 1002),
            entry(150, 100, 100, 1001),
            // Its parent is gone, its session is not.
            entry(160, 1, 100, 1003),
            // In the session that 90 leads.
            entry(95, 1, 90, 1004),
            entry(200, 1, 200, 1005),
        ];
        assert_eq!(living(&mut family(), &entries), [90, 95, 100, 150, 160]);
    }

    #[test]
    fn who_was_seen_once_is_remembered() {
        let mut family = family();
        living(&mut family, &[entry(100, 1, 100, 1000), entry(101, 100, 101, 1001)]);
        assert_eq!(living(&mut family, &[entry(101, 1, 101, 1001)]), [101]);
    }

    #[test]
    fn a_number_used_again_is_a_stranger() {
        let mut family = family();
        living(&mut family, &[entry(100, 1, 100, 1000), entry(101, 100, 101, 1001)]);
        let later = [entry(101, 1, 101, 5000), entry(102, 101, 101, 5001), entry(100, 1, 100, 5002)];
        assert_eq!(living(&mut family, &later), [] as [u32; 0]);
        // Older than what now has its parent's number.
        let mut family = self::family();
        assert_eq!(living(&mut family, &[entry(100, 1, 100, 1000), entry(50, 100, 50, 10)]), [100]);
    }

    #[test]
    fn an_emptied_session_is_nobodys() {
        let mut family = family();
        let entries = [entry(100, 1, 100, 1000), entry(101, 100, 101, 1001), entry(102, 1, 101, 1002)];
        assert_eq!(living(&mut family, &entries), [100, 101, 102]);
        // Without its leader, as long as somebody is in it.
        assert_eq!(living(&mut family, &[entries[0], entries[2]]), [100, 102]);
        assert_eq!(living(&mut family, &entries[..1]), [100]);
        // Its number is used again, and the new leader is gone as well.
        assert_eq!(living(&mut family, &[entries[0], entry(300, 1, 101, 3000)]), [100]);
        // That of the child itself cannot be, before the child is reaped.
        assert_eq!(living(&mut family, &[]), [] as [u32; 0]);
        assert_eq!(living(&mut family, &[entry(400, 1, 100, 4000)]), [400]);
    }

    #[test]
    fn a_start_time_can_be_learnt_later() {
        let unknown = || Family::new(Pid::from_raw(100).expect("not zero"), 0, String::new(), None);
        let own = std::process::id();
        let mut family = unknown();
        assert_eq!(living(&mut family, &[entry(100, own, 100, 1000), entry(101, 1, 100, 1001)]), [100, 101]);
        assert_eq!(family.since, 1000);
        // Somebody else's child: ours has been reaped.
        assert_eq!(living(&mut unknown(), &[entry(100, 1, 100, 1000)]), [] as [u32; 0]);
    }

    #[test]
    fn who_is_no_child_is_known_without_a_table() {
        assert!(is_no_child(0) && is_no_child(1) && is_no_child(std::process::id()));
    }

    #[test]
    fn a_stray_brings_its_session_and_its_descendants() {
        let entries = [
            entry(100, 1, 100, 1000),
            // Its parent is gone, and so is the leader of its session.
            entry(200, 1, 190, 1001),
            entry(201, 1, 190, 1002),
            entry(202, 201, 202, 1003),
            entry(300, 1, 300, 1004),
        ];
        let mut family = family();
        assert_eq!(living_with(&mut family, &entries, &[200]), [100, 200, 201, 202]);
        // The number of that session has become another's.
        let later = [entry(190, 1, 190, 9000), entry(191, 1, 190, 9001)];
        assert_eq!(living(&mut family, &later), [] as [u32; 0]);
    }

    #[test]
    fn neither_the_daemon_nor_its_ancestors_belong_to_a_family() {
        // The daemon, 7, was started by a stray, from a shell.
        let entries = [
            entry(1, 0, 1, 1),
            entry(5, 1, 5, 1000),
            entry(6, 5, 6, 1001),
            entry(7, 6, 7, 1002),
            entry(8, 7, 8, 1003),
            entry(9, 5, 9, 1004),
        ];
        let everybody = [1, 5, 6, 7, 9];
        assert_eq!(living_with(&mut family(), &entries, &everybody), [9]);
        assert_eq!(spared(&table(&entries), 7), BTreeSet::from([1, 5, 6, 7]));
    }

    /// The mark alone, without a control group, as on machines where none can be made.
    #[tokio::test]
    async fn who_left_before_the_first_look_is_found_by_the_mark() {
        let script = "(setsid sh -c 'sleep 1000 >/dev/null & echo $!; exec true'); cat >/dev/null";
        let command = crate::Command {
            program: "sh".into(),
            args: vec!["-c".into(), script.into()],
            environment: crate::inherited_environment(),
            directory: None,
            max_line: 1024,
            stderr_ring: 1024,
        };
        let mut child = crate::spawn(&command).expect("sh starts");
        let said = child.stdout.next().await.expect("a readable pipe");
        let Some(crate::Line::Text(text)) = said else { panic!("expected a number, got {said:?}") };
        let stray: u32 = std::str::from_utf8(&text).expect("UTF-8").parse().expect("a number");

        let identity = child.process.identity();
        let root = Pid::from_raw(identity.pid.cast_signed()).expect("not zero");
        let is_alone = || {
            let table = read_table().expect("a readable /proc");
            let entry = table.get(&stray).expect("it lives");
            spared(&table, std::process::id()).contains(&entry.parent)
        };
        while !is_alone() {
            sleep(Duration::from_millis(5)).await;
        }
        let found = |mark: &str| {
            let mut family = Family::new(root, identity.started, mark.to_owned(), None);
            family.look().expect("a readable /proc").iter().any(|entry| entry.pid == stray)
        };
        assert!(found(&identity.mark));
        assert!(!found("") && !found("another"));

        let ended = child.process.end(Some(child.stdin), Duration::from_secs(20)).await;
        assert_eq!((ended.step, ended.survivors), (crate::EndStep::Eof, 0));
        assert!(read_entry(stray).expect("a readable /proc").is_none_or(|entry| entry.dead));
    }

    #[test]
    fn the_dead_do_not_live() {
        let mut zombie = entry(101, 100, 100, 1001);
        zombie.dead = true;
        assert_eq!(living(&mut family(), &[entry(100, 1, 100, 1000), zombie]), [100]);
    }
}
