//! The wall clock and the random numbers of a simulated process.
//!
//! Owns what `clock_gettime` and `getrandom` answer in a binary that says [`stand_in_for_the_system`]: on a thread that simulates from
//! its seed and its simulated time, on every other thread what the kernel says. Every other binary that this crate is linked into has the
//! C library's own. Below the standard library, because hash maps, uuids and election timers draw their numbers where no argument
//! reaches. Monotonic time is tokio's paused clock, and is left alone here.
//! Invariant: a number given out is a function of the seed and of how many were given out before.

#![expect(unsafe_code, reason = "what stands in for two functions of the C library takes their pointers")]

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::random::Random;

/// Simulated time begins here, ms since the epoch.
pub const BEGIN_MS: u64 = 1_800_000_000_000;

const REALTIME: i32 = 0;
const REALTIME_COARSE: i32 = 5;
const NO_SUCH_CLOCK: i32 = -1;

thread_local! {
    /// The state of the random numbers; `None` = this thread does not simulate.
    static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
    /// ms since the epoch.
    static WALL_CLOCK: Cell<u64> = const { Cell::new(BEGIN_MS) };
}

/// Makes this thread one that simulates. It must not have drawn a random number yet: hash maps keep their first one.
pub fn begin(seed: u64) {
    RANDOM.set(Some(seed));
    WALL_CLOCK.set(BEGIN_MS);
    assert_eq!(wall_clock_ms(), BEGIN_MS, "the linker took the C library's clock_gettime");
    let mut expected = Random::new(seed);
    let _first = RandomState::new().build_hasher().finish();
    assert_eq!(RANDOM.get(), Some(state_after(&mut expected)), "the linker took the C library's getrandom");
}

/// The state behind the two words that the keys of hash maps take.
fn state_after(random: &mut Random) -> u64 {
    random.word();
    random.word();
    random.state()
}

/// Sets the wall clock of this thread.
pub fn set_wall_clock(ms_since_epoch: u64) {
    WALL_CLOCK.set(ms_since_epoch);
}

/// What the product reads.
#[expect(clippy::disallowed_methods, reason = "to see whether the stand-in is in place")]
fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock behind the epoch");
    u64::try_from(since.as_millis()).expect("a clock of this age")
}

/// The C library's `timespec`.
#[repr(C)]
#[derive(Debug)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

/// Puts the two symbols into a binary, in front of the C library's. Said once, at the top of the binary's root.
#[macro_export]
macro_rules! stand_in_for_the_system {
    () => {
        #[expect(unsafe_code, reason = "two symbols of the C library are replaced")]
        mod system_stand_in {
            use $crate::simulation::system::{self, Timespec};

            #[unsafe(no_mangle)]
            extern "C" fn clock_gettime(clock: i32, out: *mut Timespec) -> i32 {
                // SAFETY: the caller gives room for one `timespec`, as the C library's contract says.
                unsafe { system::clock_gettime(clock, out) }
            }

            #[unsafe(no_mangle)]
            extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
                // SAFETY: the caller gives `length` writable bytes, as the C library's contract says.
                unsafe { system::getrandom(buffer, length, flags) }
            }
        }
    };
}

/// The C library's contract, for [`stand_in_for_the_system`].
///
/// # Safety
/// `out` points to room for one `timespec`.
pub unsafe fn clock_gettime(clock: i32, out: *mut Timespec) -> i32 {
    let simulated = [REALTIME, REALTIME_COARSE].contains(&clock) && RANDOM.get().is_some();
    let time = if simulated {
        let ms = WALL_CLOCK.get().cast_signed();
        Timespec { seconds: ms / 1_000, nanoseconds: ms % 1_000 * 1_000_000 }
    } else {
        use rustix::time::ClockId;
        let id = match clock {
            REALTIME => ClockId::Realtime,
            1 => ClockId::Monotonic,
            2 => ClockId::ProcessCPUTime,
            3 => ClockId::ThreadCPUTime,
            REALTIME_COARSE => ClockId::RealtimeCoarse,
            6 => ClockId::MonotonicCoarse,
            7 => ClockId::Boottime,
            _ => return NO_SUCH_CLOCK,
        };
        let now = rustix::time::clock_gettime(id);
        Timespec { seconds: now.tv_sec, nanoseconds: now.tv_nsec }
    };
    // SAFETY: as said above.
    unsafe { out.write(time) };
    0
}

/// The C library's contract, for [`stand_in_for_the_system`].
///
/// # Safety
/// `buffer` points to `length` writable bytes.
pub unsafe fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    if length == 0 {
        return 0;
    }
    // SAFETY: as said above; the bytes are written before any is read.
    let bytes = unsafe {
        buffer.write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer, length)
    };
    if let Some(state) = RANDOM.get() {
        let mut random = Random::new(state);
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&random.word().to_le_bytes()[..word.len()]);
        }
        RANDOM.set(Some(random.state()));
        return length.cast_signed();
    }
    let flags = rustix::rand::GetRandomFlags::from_bits_retain(flags);
    rustix::rand::getrandom(bytes, flags).map_or(-1, usize::cast_signed)
}
