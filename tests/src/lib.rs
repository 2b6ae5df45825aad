//! The suites' harness: real servers, real clients, and the conditions that the suites wait for.
//!
//! [`simulation`] is the exception to what follows: it runs the product's nodes in this process.
//! Owns the processes that a suite starts and the directories they write (`tests/.cache/run`). Knows the product from outside
//! alone: its binary, its wire protocol, its bucket, its metrics page. Every wait has a deadline and a condition; a server dies with
//! the test process that started it, however that ends. A crash leaves a directory under `tests/.cache/run`, named by the dead
//! process's id, which the next test process removes.

pub mod amnesia;
pub mod broker;
pub mod clients;
pub mod connect;
pub mod hdfs;
pub mod history;
pub mod http;
pub mod iceberg;
pub mod l0;
pub mod load;
pub mod minio;
pub mod mutations;
pub mod netns;
pub mod place;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod random;
pub mod records;
pub mod simulation;
pub mod tools;
pub mod wait;
pub mod wire;
