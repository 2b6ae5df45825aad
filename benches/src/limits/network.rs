//! LN: a server that does nothing but frame.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use strandline_tests::wait;

use super::own_seconds;
use crate::report::Values;

const CONNECTIONS: usize = 64;
const IN_FLIGHT: usize = 5;
const REQUEST: usize = 200;
const ANSWER: usize = 60;

fn read_frame(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    buffer.resize(u32::from_be_bytes(length) as usize, 0);
    stream.read_exact(buffer)
}

fn frame(size: usize) -> Vec<u8> {
    let body = u32::try_from(size - 4).expect("a small frame");
    let mut frame = body.to_be_bytes().to_vec();
    frame.resize(size, 0);
    frame
}

pub(super) fn null_server(_bytes: u64, longest: Duration) -> Values {
    let (cpu, begin) = (own_seconds(), wait::now());
    let answered: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (mut client, mut server) = super::disk::pair();
                client.set_nodelay(true).expect("a TCP option");
                server.set_nodelay(true).expect("a TCP option");
                scope.spawn(move || {
                    let (answer, mut buffer) = (frame(ANSWER), Vec::new());
                    while read_frame(&mut server, &mut buffer).is_ok() && server.write_all(&answer).is_ok() {}
                });
                scope.spawn(move || {
                    let (request, mut buffer) = (frame(REQUEST), Vec::new());
                    let (mut open, mut answered) = (0, 0);
                    while begin.elapsed() < longest {
                        while open < IN_FLIGHT {
                            client.write_all(&request).expect("loopback");
                            open += 1;
                        }
                        read_frame(&mut client, &mut buffer).expect("loopback");
                        open -= 1;
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        clients.into_iter().map(|c| c.join().expect("a client ends well")).sum()
    });
    let (cpu, wall) = (own_seconds() - cpu, begin.elapsed().as_secs_f64());
    Values::from([("requests_per_s", answered as f64 / wall), ("requests_per_cpu_s_both_sides", answered as f64 / cpu)])
}
