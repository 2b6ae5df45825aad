//! A cluster of real processes on loopback: brokers come and go under load, and Kafka's own tools work on it.

mod balance;
mod failures;
mod load;
mod nodes;
mod racks;
mod roles;
mod scaling;
mod small;
mod throttle;
mod tools;
