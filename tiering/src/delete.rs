//! The moves *collect* and *delete topic*: the only ones that LIST.
//!
//! Owns: which listed keys go. Does not own: when (the caller's), the topic's mark (the controller's).
//! A crash leaves garbage for the next pass. What stores keep of unfinished multipart uploads and never list is not seen
//! here: in S3 a lifecycle rule ends it (`docs/formats/object-keys.md`).

use std::collections::HashSet;

use uuid::Uuid;

use crate::keys::{Key, Listing};
use crate::objects::{Current, LoadError};
use crate::partition::{MoveError, RemotePartition};
use crate::plan;
use crate::service::Leader;

/// Objects looked at in one LIST of a pass that deletes all.
const DELETE_PAGE: usize = 1000;
/// Garbage keys deleted in one pass of collect; more wait for the next.
const COLLECT_PAGE: usize = 10_000;

impl RemotePartition {
    /// Deletes objects that nobody can name any more: not named by the current manifest, and written by a deposed leader or
    /// by an attempt of this one that is known to have lost; and the temporary files of such attempts. Returns the number of
    /// objects.
    pub async fn collect(&self, leader: &Leader) -> Result<usize, MoveError> {
        let mut moves = self.moves.lock().await;
        let pointer = self.settled_pointer(&mut moves, leader).await?;
        // What is named must be known first: a key written later has this leader's epoch.
        let named = self.named(&self.objects.current(pointer).await?).await?;
        let garbage = |relative: &str| match Key::parse_listed(relative) {
            Some(Listing::Object(key)) => plan::is_garbage(&key, &named, leader.leader_epoch, &moves.lost),
            Some(Listing::Unfinished(key)) => plan::is_leftover(&key, leader.leader_epoch, &moves.lost),
            None => false,
        };
        self.delete_listed(COLLECT_PAGE, garbage).await
    }

    /// The uuids of everything that the current manifest names: itself, entries, runs, tombstones.
    async fn named(&self, current: &Current) -> Result<HashSet<Uuid>, LoadError> {
        let Some(manifest) = &current.manifest else { return Ok(HashSet::new()) };
        let mut named = HashSet::from([manifest.uuid]);
        for run in &manifest.entry_runs {
            named.insert(run.key.uuid());
            // What is buried is named by its tombstone, as long as there is one.
            let entries = self.objects.load_run(run).await?;
            named.extend(entries.iter().skip(run.buried as usize).map(|entry| entry.key.uuid));
        }
        for run in &manifest.tombstone_runs {
            named.insert(run.key.uuid());
            named.extend(self.objects.load_tombstones(run).await?.iter().map(|tombstone| tombstone.key.uuid()));
        }
        named.extend(manifest.entries.iter().map(|entry| entry.key.uuid));
        named.extend(manifest.tombstones.iter().map(|tombstone| tombstone.key.uuid()));
        Ok(named)
    }

    /// Deletes every object of the partition; its topic must be past the point of no return. To be called again after the
    /// longest deadline of a request, because a late one may still land. Returns the number of objects deleted.
    pub async fn delete_all(&self) -> Result<usize, MoveError> {
        let mut deleted = 0;
        loop {
            let page = self.delete_listed(DELETE_PAGE, |_| true).await?;
            deleted += page;
            if page < DELETE_PAGE {
                return Ok(deleted);
            }
        }
    }

    /// Deletes at most `limit` objects, and as many temporary files, whose relative names match. Returns how many.
    async fn delete_listed(&self, limit: usize, matches: impl Fn(&str) -> bool) -> Result<usize, MoveError> {
        let (store, folder) = (&self.objects.store, self.objects.prefix.as_str());
        let skip = folder.len() + 1;
        let matching = |key: &str| key.get(skip..).is_some_and(&matches);
        let listed = store.list_matching(folder, limit, matching).await?;
        let unfinished = store.list_unlisted(&self.objects.log.io, folder, limit).await?;
        let unfinished: Vec<String> = unfinished.into_iter().filter(|key| matching(key)).collect();
        let count = listed.len().max(unfinished.len());
        store.delete_each(listed.into_iter().map(|object| object.key).collect()).await?;
        store.remove_unlisted(&self.objects.log.io, unfinished).await?;
        Ok(count)
    }
}
