use proptest::prelude::*;

use super::*;

const LEADER: Leadership = Leadership { leader: 1, leader_epoch: 5, broker_epoch: 77, deleting: false };

fn advance(expected_version: u64, change: AdvanceChange) -> Advance {
    let tp = TopicPartition { topic_id: TopicId(Uuid::from_u128(9)), partition: 3 };
    Advance { tp, leader_epoch: 5, broker_id: 1, broker_epoch: 77, expected_version, change }
}

fn log_start(offset: Offset) -> AdvanceChange {
    AdvanceChange { log_start_offset: Some(offset), ..AdvanceChange::default() }
}

fn manifest(version: u64, highest_copied_offset: Offset) -> AdvanceChange {
    let manifest = ManifestRef { version, leader_epoch: 5, uuid: Uuid::from_u128(u128::from(version)), hash: version };
    let new = NewManifest { manifest, highest_copied_offset, highest_copied_epoch: 4 };
    AdvanceChange { manifest: Some(new), ..AdvanceChange::default() }
}

fn open_pointer() -> RemotePointer {
    let unset = RemotePointer::default();
    let opened = judge(&unset, Some(&LEADER), &advance(0, log_start(100))).unwrap();
    judge(&opened, Some(&LEADER), &advance(1, manifest(2, 199))).unwrap()
}

#[test]
fn the_first_advance_takes_the_log_start_of_the_leader() {
    let unset = RemotePointer::default();
    assert_eq!(judge(&unset, Some(&LEADER), &advance(0, manifest(1, 10))), Err(Refusal::LogStartMissing));
    let opened = judge(&unset, Some(&LEADER), &advance(0, log_start(100))).unwrap();
    assert_eq!((opened.version, opened.state), (1, PointerState::Open));
    assert_eq!((opened.log_start_offset, opened.highest_copied_offset), (100, 99));
    assert!(!opened.has_live());
}

#[test]
fn a_copy_moves_the_end_and_never_back() {
    let pointer = open_pointer();
    assert_eq!((pointer.version, pointer.highest_copied_offset, pointer.highest_copied_epoch), (2, 199, 4));
    assert!(pointer.has_live());
    let back = judge(&pointer, Some(&LEADER), &advance(2, manifest(3, 198)));
    assert_eq!(back, Err(Refusal::HighestCopiedWentBack { current: 199 }));
}

#[test]
fn a_deposed_leader_moves_nothing() {
    let pointer = open_pointer();
    let proposal = advance(2, manifest(3, 299));
    let judged = |leadership: Leadership| judge(&pointer, Some(&leadership), &proposal);
    assert_eq!(judged(Leadership { leader_epoch: 6, ..LEADER }), Err(Refusal::FencedLeaderEpoch { current: 6 }));
    assert_eq!(judged(Leadership { leader: 2, ..LEADER }), Err(Refusal::NotLeader { leader: 2 }));
    assert_eq!(judged(Leadership { broker_epoch: 78, ..LEADER }), Err(Refusal::StaleBrokerEpoch { current: 78 }));
    assert_eq!(judged(Leadership { deleting: true, ..LEADER }), Err(Refusal::TopicDeleting));
    assert_eq!(judge(&pointer, None, &proposal), Err(Refusal::UnknownPartition));
    let stale = judge(&pointer, Some(&LEADER), &advance(1, manifest(2, 299)));
    assert_eq!(stale, Err(Refusal::StaleVersion { current: 2 }));
}

#[test]
fn a_manifest_is_of_the_next_version_and_of_the_proposers_epoch() {
    let pointer = open_pointer();
    let mismatch = Err(Refusal::ManifestMismatch { expected_version: 3 });
    assert_eq!(judge(&pointer, Some(&LEADER), &advance(2, manifest(4, 299))), mismatch);
    let mut change = manifest(3, 299);
    change.manifest.as_mut().unwrap().manifest.leader_epoch = 4;
    assert_eq!(judge(&pointer, Some(&LEADER), &advance(2, change)), mismatch);
}

#[test]
fn a_trim_past_what_is_copied_takes_the_end_along() {
    let pointer = open_pointer();
    let trimmed = judge(&pointer, Some(&LEADER), &advance(2, log_start(250))).unwrap();
    assert_eq!((trimmed.log_start_offset, trimmed.highest_copied_offset), (250, 249));
    assert_eq!((trimmed.highest_copied_epoch, trimmed.remote_bytes), (UNKNOWN_EPOCH, 0));
    assert_eq!(trimmed.manifest, pointer.manifest, "a trim writes no manifest");
    let back = judge(&trimmed, Some(&LEADER), &advance(3, log_start(249)));
    assert_eq!(back, Err(Refusal::LogStartWentBack { current: 250 }));
}

#[test]
fn complete_from_stays_between_its_old_value_and_the_version() {
    let pointer = open_pointer();
    let change = |from| AdvanceChange { complete_from: Some(from), ..AdvanceChange::default() };
    let moved = judge(&pointer, Some(&LEADER), &advance(2, change(2))).unwrap();
    assert_eq!(moved.complete_from, 2);
    let refused = Err(Refusal::CompleteFromOutOfRange { current: 2, version: 3 });
    assert_eq!(judge(&moved, Some(&LEADER), &advance(3, change(4))), refused);
    assert_eq!(judge(&moved, Some(&LEADER), &advance(3, change(1))), refused);
}

#[test]
fn off_closes_and_on_again_buries_the_earlier_life() {
    let pointer = open_pointer();
    let close = AdvanceChange { close: true, ..AdvanceChange::default() };
    assert_eq!(judge(&pointer, Some(&LEADER), &advance(2, close)), Err(Refusal::LogStartMissing));
    let closed = judge(&pointer, Some(&LEADER), &advance(2, AdvanceChange { close: true, ..log_start(150) })).unwrap();
    assert_eq!((closed.state, closed.highest_copied_offset), (PointerState::Closed, 149));
    assert_eq!(judge(&closed, Some(&LEADER), &advance(3, log_start(160))), Err(Refusal::Closed));
    assert_eq!(judge(&closed, Some(&LEADER), &advance(3, manifest(4, 200))), Err(Refusal::Closed));
    let buried = judge(&closed, Some(&LEADER), &advance(3, manifest(4, 149))).unwrap();

    let unset = buried.reopened();
    assert_eq!((unset.state, unset.version), (PointerState::Unset, 5));
    assert_eq!(judge(&unset, Some(&LEADER), &advance(5, log_start(170))), Err(Refusal::ManifestMissing));
    let change = AdvanceChange { log_start_offset: Some(170), ..manifest(6, 169) };
    let opened = judge(&unset, Some(&LEADER), &advance(5, change)).unwrap();
    assert_eq!((opened.state, opened.log_start_offset, opened.highest_copied_offset), (PointerState::Open, 170, 169));
    assert_eq!(pointer.reopened(), pointer, "only a closed pointer is opened again");
}

#[test]
fn an_empty_proposal_is_malformed() {
    let pointer = open_pointer();
    assert_eq!(judge(&pointer, Some(&LEADER), &advance(2, AdvanceChange::default())), Err(Refusal::Malformed));
    assert_eq!(judge(&pointer, Some(&LEADER), &advance(2, log_start(-1))), Err(Refusal::Malformed));
    assert_eq!(judge(&pointer, Some(&LEADER), &advance(2, manifest(3, i64::MAX))), Err(Refusal::Malformed));
}

/// The bytes in `docs/formats/remote-pointer.md`: a change of them is a new format version.
#[test]
fn the_pointer_has_these_bytes() {
    let expected = "01\
        0000000000000002\
        01\
        01000000000000000200000005000000000000000000000000000000020000000000000002\
        0000000000000064\
        00000000000000c7\
        00000004\
        0000000000000000\
        0000000000000000\
        ffffffffffffffff";
    let hex: String = open_pointer().encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
}

#[test]
fn unknown_formats_and_values_are_told() {
    let mut bytes = open_pointer().encode();
    bytes.push(0);
    assert_eq!(RemotePointer::decode(&bytes), Err(PointerDecodeError::TrailingBytes(1)));
    bytes[0] = 9;
    assert_eq!(RemotePointer::decode(&bytes), Err(PointerDecodeError::UnknownFormat(9)));
    bytes[0] = FORMAT_VERSION;
    bytes[9] = 7;
    assert_eq!(RemotePointer::decode(&bytes), Err(PointerDecodeError::UnknownValue { field: "state", value: 7 }));
}

prop_compose! {
    fn any_manifest()(version: u64, leader_epoch: i32, uuid: u128, hash: u64) -> ManifestRef {
        ManifestRef { version, leader_epoch, uuid: Uuid::from_u128(uuid), hash }
    }
}

prop_compose! {
    fn any_change()(
        manifest in proptest::option::of((any_manifest(), any::<i64>(), any::<i32>())),
        log_start_offset: Option<i64>, complete_from: Option<u64>, live: Option<(u64, i64)>, close: bool,
    ) -> AdvanceChange {
        AdvanceChange {
            manifest: manifest.map(|(manifest, highest_copied_offset, highest_copied_epoch)| {
                NewManifest { manifest, highest_copied_offset, highest_copied_epoch }
            }),
            log_start_offset, complete_from, close,
            live: live.map(|(remote_bytes, oldest_max_timestamp)| LiveSummary { remote_bytes, oldest_max_timestamp }),
        }
    }
}

prop_compose! {
    fn any_pointer()(
        version: u64, state in 0..3u8, manifest in proptest::option::of(any_manifest()), log_start_offset: i64,
        highest_copied_offset: i64, highest_copied_epoch: i32, complete_from: u64, remote_bytes: u64,
        oldest_max_timestamp: i64,
    ) -> RemotePointer {
        let state = [PointerState::Unset, PointerState::Open, PointerState::Closed][usize::from(state)];
        RemotePointer {
            version, state, manifest, log_start_offset, highest_copied_offset, highest_copied_epoch, complete_from,
            remote_bytes, oldest_max_timestamp,
        }
    }
}

proptest! {
    #[test]
    fn a_pointer_survives_its_bytes(pointer in any_pointer()) {
        let bytes = pointer.encode();
        prop_assert_eq!(RemotePointer::decode(&bytes), Ok(pointer));
        for cut in 0..bytes.len() {
            prop_assert_eq!(RemotePointer::decode(&bytes[..cut]), Err(PointerDecodeError::Truncated));
        }
    }

    #[test]
    fn an_advance_survives_its_bytes(change in any_change(), epoch: i32, broker_epoch: i64, version: u64, topic: u128) {
        let tp = TopicPartition { topic_id: TopicId(Uuid::from_u128(topic)), partition: epoch };
        let advance =
            Advance { tp, leader_epoch: epoch, broker_id: epoch, broker_epoch, expected_version: version, change };
        let bytes = advance.encode();
        prop_assert_eq!(Advance::decode(&bytes), Ok(advance));
        for cut in 0..bytes.len() {
            prop_assert_eq!(Advance::decode(&bytes[..cut]), Err(PointerDecodeError::Truncated));
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = RemotePointer::decode(&bytes);
        let _ = Advance::decode(&bytes);
    }

    /// Whatever is proposed, an accepted advance keeps the invariants of the module's first lines.
    #[test]
    fn accepted_advances_keep_the_invariants(changes in proptest::collection::vec((any_change(), 0..6i64, 0..6i64, 0..4u64), 1..20)) {
        let mut pointer = RemotePointer::default();
        for (mut change, start, end, from) in changes {
            change.log_start_offset = change.log_start_offset.map(|_| pointer.log_start_offset + start - 1);
            change.complete_from = change.complete_from.map(|_| (pointer.complete_from + from).saturating_sub(1));
            if let Some(new) = &mut change.manifest {
                new.manifest.version = pointer.version + 1;
                new.manifest.leader_epoch = LEADER.leader_epoch;
                new.highest_copied_offset = pointer.highest_copied_offset + end - 1;
            }
            let before = pointer;
            match judge(&before, Some(&LEADER), &advance(before.version, change)) {
                Err(_) => continue,
                Ok(after) => pointer = after,
            }
            prop_assert_eq!(pointer.version, before.version + 1);
            prop_assert!(pointer.log_start_offset >= before.log_start_offset);
            prop_assert!(pointer.log_start_offset <= pointer.highest_copied_offset + 1);
            prop_assert!(pointer.complete_from >= before.complete_from && pointer.complete_from <= pointer.version);
            let rule_8 = change.close || before.state == PointerState::Unset;
            prop_assert!(rule_8 || pointer.highest_copied_offset >= before.highest_copied_offset);
            if pointer.state == PointerState::Closed && pointer.version % 2 == 0 {
                pointer = pointer.reopened();
            }
        }
    }
}
