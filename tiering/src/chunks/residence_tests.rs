//! Random readers over random budgets, and the cases that have a name.

use super::*;
use uuid::Uuid;

fn id(number: u64) -> ChunkId {
    ChunkId { segment: Uuid::nil(), number }
}

fn room(chunks: usize, free: usize, asked: usize) -> Room {
    Room { budget: Budget::ReadAhead, chunks, free, asked }
}

fn nobody(_: &ChunkId) -> bool {
    false
}

fn with(chunks: u64) -> Residence {
    let mut residence = Residence::new(100);
    for number in 0..chunks {
        residence.came(id(number), Budget::ReadAhead);
    }
    residence
}

#[test]
fn released_chunks_go_first_then_wanted_ones_then_unread_ones_each_oldest_first() {
    let mut residence = with(6);
    residence.passed(id(4), false);
    residence.passed(id(2), true);
    residence.used(id(0));
    let steps = residence.room(room(6, 0, 4), nobody);
    assert_eq!(steps, [Step::Drop(id(4)), Step::Write(id(2)), Step::Write(id(1)), Step::Write(id(3))]);
    assert_eq!(residence.room(room(6, 1, 4), nobody), [], "what is on its way to its file is not said again");
    residence.left(id(2));
    residence.left(id(1));
    residence.left(id(3));
    assert_eq!(residence.room(room(6, 4, 6), nobody), [Step::Write(id(5)), Step::Write(id(0))]);
}

#[test]
fn what_an_answer_holds_makes_no_room() {
    let mut residence = with(3);
    residence.passed(id(0), false);
    let held = |chunk: &ChunkId| chunk.number < 2;
    assert_eq!(residence.room(room(3, 0, 3), held), [Step::Write(id(2))]);
}

#[test]
fn without_pressure_a_few_released_chunks_stay_and_wanted_ones_leave_before_memory_is_short() {
    let mut residence = with(16);
    for number in 0..8 {
        residence.passed(id(number), false);
    }
    let steps = residence.room(room(32, 16, 0), nobody);
    assert_eq!(steps, [], "a quarter of the budget");
    residence.passed(id(8), false);
    assert_eq!(residence.room(room(32, 16, 0), nobody), [Step::Drop(id(0))]);

    let mut residence = with(30);
    for number in 0..10 {
        residence.passed(id(number), true);
    }
    let steps = residence.room(room(32, 2, 0), nobody);
    assert_eq!(steps, (0..6).map(|number| Step::Write(id(number))).collect::<Vec<_>>(), "until a quarter is spare");
}

#[test]
fn the_last_of_the_readers_releases_a_chunk() {
    let mut residence = with(1);
    residence.passed(id(0), true);
    residence.passed(id(0), false);
    assert_eq!(residence.room(room(1, 0, 1), nobody), [Step::Drop(id(0))]);
}

#[test]
fn a_chunk_that_is_fetched_again_is_worth_a_file_unless_it_was_long_ago() {
    let mut residence = with(1);
    let once = |residence: &mut Residence, number| {
        residence.came(id(number), Budget::ReadAhead);
        residence.passed(id(number), false);
        residence.room(room(1, 0, 1), nobody)
    };
    assert_eq!(once(&mut residence, 0), [Step::Drop(id(0))]);
    assert_eq!(once(&mut residence, 0), [Step::Write(id(0))]);
    residence.left(id(0));
    assert_eq!(once(&mut residence, 0), [Step::Drop(id(0))], "it has a file of its own since; that is gone, too");
    for number in 1..=100 {
        assert_eq!(once(&mut residence, number), [Step::Drop(id(number))]);
    }
    assert_eq!(once(&mut residence, 0), [Step::Drop(id(0))], "more was dropped since than there is room for in files");
}

/// A budget of memory with readers, without the shell: fetches and writes take a random number of steps.
struct Model {
    random: u64,
    residence: Residence,
    chunks: usize,
    memory: Vec<ChunkId>,
    writing: Vec<ChunkId>,
    files: Vec<ChunkId>,
    fetched: HashMap<ChunkId, u32>,
    wrote: usize,
}

impl Model {
    fn new(seed: u64, chunks: usize) -> Model {
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Model {
            random,
            residence: Residence::new(1000),
            chunks,
            memory: Vec::new(),
            writing: Vec::new(),
            files: Vec::new(),
            fetched: HashMap::new(),
            wrote: 0,
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % n
    }

    fn make_room(&mut self, asked: usize, held: Option<ChunkId>) {
        let free = self.chunks - self.memory.len();
        for step in self.residence.room(room(self.chunks, free, asked), |chunk| Some(*chunk) == held) {
            let (Step::Drop(chunk) | Step::Write(chunk)) = step;
            assert_ne!(Some(chunk), held);
            assert!(self.memory.contains(&chunk) && !self.writing.contains(&chunk), "{step:?}");
            match step {
                Step::Drop(_) => self.memory.retain(|there| *there != chunk),
                Step::Write(_) => self.writing.push(chunk),
            }
        }
    }

    fn finish_a_write(&mut self) {
        if !self.writing.is_empty() {
            let which = self.below(self.writing.len() as u64) as usize;
            let chunk = self.writing.swap_remove(which);
            self.memory.retain(|there| *there != chunk);
            self.residence.left(chunk);
            self.files.push(chunk);
            self.wrote += 1;
        }
    }

    /// Whether the chunk came to memory, or is there.
    fn fetch(&mut self, chunk: ChunkId, held: Option<ChunkId>) -> bool {
        if self.memory.contains(&chunk) || self.files.contains(&chunk) {
            return true;
        }
        if self.memory.len() == self.chunks {
            self.make_room(1, held);
        }
        if self.memory.len() == self.chunks {
            return false;
        }
        self.memory.push(chunk);
        self.residence.came(chunk, Budget::ReadAhead);
        *self.fetched.entry(chunk).or_default() += 1;
        assert!(self.memory.len() <= self.chunks);
        true
    }

    /// Reads on: what is before the reader must come whatever the memory is full of.
    fn read(&mut self, chunk: ChunkId, held: Option<ChunkId>) {
        for _ in 0..1000 {
            if self.fetch(chunk, held) {
                self.residence.used(chunk);
                return;
            }
            self.finish_a_write();
        }
        panic!("memory is full of what cannot leave");
    }
}

#[test]
fn a_lone_sequential_reader_fetches_once_and_writes_nothing() {
    for seed in 1..200 {
        let chunks = 2 + (seed % 23) as usize;
        let mut model = Model::new(seed, chunks);
        for number in 0..300 {
            model.read(id(number), None);
            // Its last batch may begin in the chunk before.
            if number > 0 && model.below(4) == 0 {
                model.read(id(number - 1), Some(id(number)));
            }
            if number > 0 {
                model.residence.passed(id(number - 1), false);
                model.make_room(0, None);
            }
            for ahead in 1..model.below(chunks as u64) {
                if !model.fetch(id(number + ahead), Some(id(number))) {
                    break;
                }
            }
        }
        assert!(model.fetched.values().all(|times| *times == 1), "seed {seed}");
        assert_eq!(model.wrote, 0, "seed {seed}");
    }
}

#[test]
fn random_readers_stay_within_the_budget_and_lose_nothing_that_is_before_them() {
    for seed in 1..300 {
        let mut model = Model::new(seed, 2 + (seed % 13) as usize);
        // Readers of the same 60 chunks: some go on, some jump, some go away with chunks read ahead.
        let mut at: Vec<u64> = (0..2 + seed % 5).map(|_| 0).collect();
        for _ in 0..600 {
            let reader = model.below(at.len() as u64) as usize;
            let here = at[reader];
            let held = model.memory.first().copied().filter(|_| seed % 3 == 0);
            model.read(id(here), held);
            if model.below(3) == 0 {
                let awaited = at.iter().enumerate().any(|(other, there)| other != reader && *there <= here);
                model.residence.passed(id(here), awaited);
                at[reader] = (here + 1) % 60;
            } else if model.below(40) == 0 {
                at[reader] = model.below(60);
            }
            let ahead = 1 + model.below(6);
            for number in here + 1..(here + ahead).min(60) {
                if !model.fetch(id(number), None) {
                    break;
                }
            }
            if model.below(2) == 0 {
                model.finish_a_write();
            }
            let known = model.residence.of(Budget::ReadAhead).count();
            assert_eq!(known, model.memory.len(), "seed {seed}: the books and the memory agree");
        }
        // Dropped once at most: the second time it is worth a file, and files stay here.
        assert!(model.fetched.values().all(|times| *times <= 2), "seed {seed}");
    }
}
