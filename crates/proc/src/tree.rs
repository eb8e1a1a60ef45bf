//! Who descends from whom: `/proc`, read once, and the processes that came from one child.
//!
//! A number alone never names a process, since numbers are used again. A process is its number and its start
//! time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, kill_process_group, pidfd_open,
    pidfd_send_signal, set_child_subreaper, waitpid,
};

/// The children this crate has started and not reaped, by number with their start time.
static REGISTRY: Mutex<Registry> = Mutex::new(Registry { spawning: 0, children: BTreeMap::new() });

struct Registry {
    /// How many children are being started: born perhaps, but not among `children` yet.
    spawning: usize,
    children: BTreeMap<u32, u64>,
}

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held while a child is being started, so that [`reap_orphans`] does not take it for an orphan.
pub(crate) struct Spawning(());

impl Spawning {
    pub(crate) fn begin() -> Self {
        registry().spawning += 1;
        Self(())
    }

    /// The child is there: returns its start time, or 0 if `/proc` cannot be read.
    pub(crate) fn register(self, pid: u32) -> u64 {
        let started = start_time(pid).unwrap_or(0);
        registry().children.insert(pid, started);
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
/// They then stay findable, and must be reaped: call [`reap_orphans`] now and then.
///
/// # Errors
/// What the system said.
pub fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Reaps the dead processes that the daemon adopted, and returns how many there were.
///
/// Children that this crate has started are left alone: their exit status belongs to their
/// [`Process`](crate::Process). So are those for which `known` says true; it is for children that others
/// started. It must not call back into this crate. Never waits.
pub fn reap_orphans(known: &dyn Fn(u32) -> bool) -> usize {
    let mut registry = registry();
    if registry.spawning > 0 {
        // One of the dead might be a child whose number is not known yet; there will be a next time.
        return 0;
    }
    let table = read_table();
    // A child whose `Process` was dropped is reaped by the runtime, which tells nobody.
    registry.children.retain(|pid, started| is_same(&table, *pid, *started));
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
    pid: u32,
    parent: u32,
    group: u32,
    session: u32,
    started: u64,
    /// Ended, and perhaps not reaped.
    dead: bool,
}

type Table = BTreeMap<u32, Entry>;

/// A child and all that came from it, as far as it was ever seen.
///
/// Found are: everything in a session that the child or one of its descendants leads, and every descendant
/// whose line of parents is unbroken when looked at. What was found once is remembered when its parents die
/// or it leaves their session. What detached itself completely before the first look (new session, dead
/// parent) cannot be told from a stranger.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    root: Pid,
    members: BTreeMap<u32, u64>,
    /// The sessions led by members. Their numbers are not used again while anybody is in them.
    sessions: BTreeMap<u32, u64>,
}

impl Family {
    pub(crate) fn new(root: Pid, started: u64) -> Self {
        let first = BTreeMap::from([(number(root), started)]);
        Self { root, members: first.clone(), sessions: first }
    }

    /// Looks for members, remembers them, reaps those that are dead and ours to reap, and returns those that
    /// live.
    ///
    /// Reads all of `/proc`: some microseconds for each process of the machine.
    pub(crate) fn look(&mut self) -> Vec<Entry> {
        let (living, dead) = self.admit(&read_table());
        let daemon = std::process::id();
        for entry in dead {
            // The root is kept: as long as it is not reaped, its number names this group and no other.
            if entry.parent == daemon && entry.pid != number(self.root) {
                reap(entry.pid);
            }
        }
        living
    }

    fn admit(&mut self, table: &Table) -> (Vec<Entry>, Vec<Entry>) {
        self.members.retain(|pid, started| is_same(table, *pid, *started));
        self.sessions
            .retain(|leader, started| !table.contains_key(leader) || is_same(table, *leader, *started));
        loop {
            let mut grown = false;
            for entry in table.values() {
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

    /// Signals the child's group at once, then those of the `living` that left it, one by one.
    ///
    /// The child must not have been reaped.
    pub(crate) fn signal(&self, living: &[Entry], signal: Signal) {
        // What is gone, or has become another user's, cannot be signalled; the next look tells.
        let _ = kill_process_group(self.root, signal);
        for entry in living {
            signal_outside(number(self.root), entry, signal);
        }
    }
}

/// Signals this process, unless it is in the group, which was signalled before; or nobody if its number has gone to
/// another. Whether it is in the group is asked now: it may have left after it was looked at.
fn signal_outside(group: u32, entry: &Entry, signal: Signal) {
    let Some(pid) = Pid::from_raw(entry.pid.cast_signed()) else { return };
    let descriptor = pidfd_open(pid, PidfdFlags::empty());
    // Asked after opening: the descriptor then names this process, whatever becomes of the number.
    if read_entry(entry.pid).is_none_or(|now| now.started != entry.started || now.group == group) {
        return;
    }
    let _ = match descriptor {
        Ok(descriptor) => pidfd_send_signal(descriptor, signal),
        // No descriptor to spare is no reason to let it live.
        Err(_) => kill_process(pid, signal),
    };
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

fn start_time(pid: u32) -> Option<u64> {
    read_entry(pid).map(|entry| entry.started)
}

fn read_table() -> Table {
    let Ok(directory) = std::fs::read_dir("/proc") else { return Table::new() };
    directory
        .filter_map(|file| file.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, read_entry(pid)?)))
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "/proc is memory: reading it waits for no device")]
fn read_entry(pid: u32) -> Option<Entry> {
    parse(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: u32, parent: u32, session: u32, started: u64) -> Entry {
        Entry { pid, parent, group: session, session, started, dead: false }
    }

    fn table(entries: &[Entry]) -> Table {
        entries.iter().map(|entry| (entry.pid, *entry)).collect()
    }

    fn family() -> Family {
        Family::new(Pid::from_raw(100).expect("not zero"), 1000)
    }

    fn living(family: &mut Family, entries: &[Entry]) -> Vec<u32> {
        family.admit(&table(entries)).0.iter().map(|entry| entry.pid).collect()
    }

    #[test]
    fn a_name_may_contain_anything() {
        let stat = b"42 (a) R 1 (b \xff)) S 7 8 9 0 -1 4194304 98 0 0 0 0 0 0 0 20 0 1 0 104824 3133440";
        let entry = parse(42, stat).expect("a well-formed line");
        assert_eq!(entry, Entry { pid: 42, parent: 7, group: 8, session: 9, started: 104_824, dead: false });
        assert_eq!(parse(42, b"42 (cut off) S 7"), None);
    }

    #[test]
    fn this_process_is_in_proc() {
        let own = std::process::id();
        let table = read_table();
        let entry = table.get(&own).expect("a readable /proc");
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
    fn the_dead_do_not_live() {
        let mut zombie = entry(101, 100, 100, 1001);
        zombie.dead = true;
        assert_eq!(living(&mut family(), &[entry(100, 1, 100, 1000), zombie]), [100]);
    }
}
