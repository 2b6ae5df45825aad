//! The history's lines: what is written is what is read, and the form that other languages write is this.

use strandline_tests::history::op::{Action, Key, Micro, Query, Seen, Sent, Stage, from_lines, to_lines};

use crate::story::{Story, k, slice};

#[test]
fn lines_read_back_as_they_were() {
    let mut story = Story::default();
    story.send(1, &[(10, 0), (11, -1)]).poll_in_rebalance(2, &[(0, 10)]).assign(3, true).subscribe(4);
    story.rebalance(4, 1).commit(4, 1, 7).committed(4, 7).list(5, Query::Timestamp(9), 3).list(
        5,
        Query::EarliestLocal,
        3,
    );
    story.whole(6, Stage::Info, Action::Crash).txn(7, Stage::Fail, vec![Micro::Poll(vec![slice(&[])])]);
    assert_eq!(from_lines(&to_lines(&story.0)), Ok(story.0));
}

#[test]
fn a_foreign_client_can_write_them() {
    let text = r#"
{"index":0,"time":5,"process":1,"type":"invoke","f":"send","value":[{"send":["my-topic-3",[{"value":7}]]}]}
{"index":1,"time":9,"process":1,"type":"ok","f":"send","value":[{"send":["my-topic-3",[{"value":7,"offset":4}]]}]}
{"index":2,"time":9,"process":2,"type":"ok","f":"poll","value":[{"poll":[{"key":"my-topic-3","records":[{"offset":4,"value":7}]}]}]}
{"index":3,"time":9,"process":2,"type":"info","f":"crash"}
"#;
    let history = from_lines(text).expect("lines of the form");
    let key = Key::new("my-topic", 3);
    let sent = |offset| Action::Send(vec![Micro::Send(key.clone(), vec![Sent { value: 7, offset, timestamp: None }])]);
    assert_eq!(history[0].action, sent(None));
    assert_eq!((history[1].stage, &history[1].action), (Stage::Ok, &sent(Some(4))));
    assert_eq!(history[2].action.micros().len(), 1);
    let Micro::Poll(slices) = &history[2].action.micros()[0] else { panic!("a poll") };
    assert_eq!((&slices[0].key, &slices[0].records[..]), (&key, &[Seen::new(4, 7)][..]));
    assert_eq!(history[3].action, Action::Crash);
}

#[test]
fn a_bad_line_is_named() {
    let error = from_lines("\n{\"index\":0}\n").expect_err("a line without its fields");
    assert!(error.starts_with("line 2: "), "{error}");
    assert!("no-number-x".parse::<Key>().is_err() && "none".parse::<Key>().is_err());
    assert_eq!("t-0".parse(), Ok(k()));
}
