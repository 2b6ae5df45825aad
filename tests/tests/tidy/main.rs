//! Rules of the tree that no compiler checks: who may depend on whom, how long a file may be, which names are not used,
//! whether the maps name what is there. Limits are ratchets: the lists of exceptions may only shrink.

mod edges;
mod lengths;
mod maps;
mod tree;
mod words;
