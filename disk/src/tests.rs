//! One conformance suite for both disks, and what only the faulty one does.

use crate::{Disk, FaultyDisk, InjectedError, RealDisk};
use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("strandline-disk-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

fn conformance(disk: &dyn Disk, root: &Path) {
    let dir = root.join("a/b");
    disk.create_dir_all(&dir).unwrap();
    let path = dir.join("file");
    assert_eq!(disk.open(&path).unwrap_err().kind(), ErrorKind::NotFound);
    let file = disk.create_new(&path).unwrap();
    assert_eq!(disk.create_new(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let (one, two) = (vec![1u8; 70_000], vec![2u8; 3]);
    // More slices than one system call takes, with empty ones among them.
    let mut slices: Vec<IoSlice<'_>> = Vec::new();
    for _ in 0..700 {
        slices.push(IoSlice::new(&two));
        slices.push(IoSlice::new(&[]));
    }
    slices.push(IoSlice::new(&one));
    file.write_at(&mut slices, 10).unwrap();
    assert_eq!(file.len().unwrap(), 10 + 2_100 + 70_000);
    let mut buf = vec![9u8; 100_000];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 72_110);
    assert!(buf[..10].iter().all(|b| *b == 0) && buf[10..2_110].iter().all(|b| *b == 2));
    assert!(buf[2_110..72_110].iter().all(|b| *b == 1));
    assert_eq!(file.read_at(&mut buf, 80_000).unwrap(), 0);
    file.truncate(5).unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    file.allocate(1 << 16).unwrap();
    assert_eq!(disk.len(&path).unwrap(), 5);
    disk.replace_file(&dir.join("other"), b"hello").unwrap();
    assert_eq!(disk.read_file(&dir.join("other"), 5).unwrap(), b"hello");
    assert_eq!(disk.read_file(&dir.join("other"), 4).unwrap_err().kind(), ErrorKind::InvalidData);
    disk.rename(&path, &dir.join("other")).unwrap();
    assert!(!disk.exists(&path).unwrap());
    disk.create(&dir.join("z")).unwrap();
    disk.create_dir_all(&dir.join("c")).unwrap();
    disk.sync_dir(&dir).unwrap();
    let names: Vec<_> = disk.read_dir(&dir).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect();
    assert_eq!(names, [("c".into(), true), ("other".into(), false), ("z".into(), false)]);
    let lock = disk.lock(&root.join(".lock")).unwrap();
    assert_eq!(disk.lock(&root.join(".lock")).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(lock);
    disk.lock(&root.join(".lock")).unwrap();
    assert!(disk.available_space(root).unwrap() > 0);
    disk.sync_filesystem(root).unwrap();
    disk.remove_file(&dir.join("z")).unwrap();
    disk.remove_dir_all(&root.join("a")).unwrap();
    assert!(!disk.exists(&dir).unwrap());
}

#[test]
fn real_disk_conforms() {
    let root = scratch("conformance");
    std::fs::create_dir_all(&root).unwrap();
    conformance(&RealDisk, &root);
    std::fs::remove_dir_all(&root).unwrap();
}

#[test]
fn faulty_disk_conforms() {
    let disk = FaultyDisk::new();
    disk.create_dir_all(Path::new("/root")).unwrap();
    conformance(&disk, Path::new("/root"));
}

fn put(disk: &FaultyDisk, path: &str, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    let path = Path::new(path);
    let file = if disk.exists(path)? { disk.open(path)? } else { disk.create(path)? };
    file.write_at(&mut [IoSlice::new(bytes)], offset)
}

#[test]
fn a_directory_that_is_made_durably_survives_with_what_is_synced_in_it() {
    let dir = Path::new("/data/cluster/log");
    for seed in 0..100 {
        let disk = FaultyDisk::new();
        disk.create_dir_all_durably(dir).unwrap();
        disk.replace_file(&dir.join("f"), b"kept").unwrap();
        let after = disk.crash(seed);
        assert_eq!(after.read_file(&dir.join("f"), 100).unwrap(), b"kept", "seed {seed}");
    }
}

#[test]
fn what_is_synced_survives_and_the_rest_may_not() {
    let (mut kept, mut lost, mut torn, mut unnamed) = (0, 0, 0, 0);
    for seed in 0..200 {
        let disk = FaultyDisk::new();
        put(&disk, "/f", &[1; 5_000], 0).unwrap();
        disk.open(Path::new("/f")).unwrap().sync_all().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        put(&disk, "/f", &[2; 5_000], 5_000).unwrap();
        put(&disk, "/g", &[3; 10], 0).unwrap();
        let after = disk.crash(seed);
        assert!(put(&disk, "/f", &[1], 0).is_err(), "the old disk is dead");
        let bytes = after.read_file(Path::new("/f"), 1 << 20).unwrap();
        assert!(bytes[..5_000].iter().all(|b| *b == 1));
        match bytes[5_000..].iter().filter(|b| **b == 2).count() {
            0 => lost += 1,
            5_000 => kept += 1,
            _ => torn += 1,
        }
        unnamed += u32::from(!after.exists(Path::new("/g")).unwrap());
        assert_eq!(bytes, disk.crash(seed).read_file(Path::new("/f"), 1 << 20).unwrap(), "same seed, same image");
    }
    assert!(kept > 10 && lost > 10 && torn > 10 && unnamed > 10, "{kept} {lost} {torn} {unnamed}");
}

#[test]
fn a_failed_sync_loses_the_pages_and_then_lies() {
    let disk = FaultyDisk::new();
    put(&disk, "/f", &[1; 10], 0).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.fail_next_sync();
    let file = disk.open(Path::new("/f")).unwrap();
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_ok());
    assert_eq!(file.len().unwrap(), 10, "the page cache still shows it");
    for seed in 0..20 {
        assert_eq!(disk.crash(seed).len(Path::new("/f")).unwrap(), 0);
    }
}

#[test]
fn crash_points_are_enumerable_and_faults_hit_their_operation() {
    let scenario = |disk: &FaultyDisk| -> std::io::Result<()> {
        put(disk, "/f", &[1; 10], 0)?;
        disk.open(Path::new("/f"))?.sync_all()?;
        disk.replace_file(Path::new("/g"), b"g")?;
        disk.rename(Path::new("/f"), Path::new("/h"))?;
        disk.sync_dir(Path::new("/"))
    };
    let disk = FaultyDisk::new();
    scenario(&disk).unwrap();
    let operations = disk.operations();
    assert_eq!(operations, 10);
    for n in 0..operations {
        let disk = FaultyDisk::new();
        disk.crash_at(n);
        assert!(scenario(&disk).is_err() && disk.crashed());
        let after = disk.crash(n);
        if n > 7 {
            assert_eq!(after.read_file(Path::new("/g"), 10).unwrap(), b"g");
        }
        let disk = FaultyDisk::new();
        disk.fail_operation(n, InjectedError::NoSpace);
        assert!(scenario(&disk).is_err());
        assert!(!disk.crashed() && disk.exists(Path::new("/")).unwrap());
    }
}

#[test]
fn a_full_disk_takes_half_a_write_and_reads_fail_on_order() {
    let disk = FaultyDisk::new();
    disk.set_capacity(Some(15));
    put(&disk, "/f", &[1; 10], 0).unwrap();
    assert_eq!(put(&disk, "/f", &[2; 10], 10).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.len(Path::new("/f")).unwrap(), 15);
    disk.fail_reads("f");
    assert!(disk.read_file(Path::new("/f"), 100).is_err());
    disk.heal_reads();
    disk.flip_bit(Path::new("/f"), 0, 1).unwrap();
    assert_eq!(disk.read_file(Path::new("/f"), 100).unwrap()[0], 3);
}

#[test]
fn a_directory_created_durably_outlives_a_crash_with_its_parents() {
    for seed in 0..50 {
        let disk = FaultyDisk::new();
        disk.create_dir_all_durably(Path::new("/a/b/c")).unwrap();
        let after = disk.crash(seed);
        assert!(after.exists(Path::new("/a/b/c")).unwrap(), "seed {seed}");
        // A process that was killed before it could sync leaves one that is there and not on the medium.
        after.create_dir_all(Path::new("/a/d")).unwrap();
        let next = after.kill();
        next.create_dir_all_durably(Path::new("/a/d")).unwrap();
        assert!(next.crash(seed).exists(Path::new("/a/d")).unwrap(), "seed {seed}");
    }
}
