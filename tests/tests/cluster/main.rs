//! A cluster of real processes on loopback: brokers come and go under load, and Kafka's own tools work on it.

mod balance;
mod load;
mod nodes;
mod racks;
mod scaling;
mod throttle;
mod tools;
