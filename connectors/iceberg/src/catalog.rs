//! The catalog, and the guard around it while a commit is made.
//!
//! Owns the properties of a table that say which offset of a partition comes next. Invariant: a commit that moves an offset is based on
//! metadata in which the offset was where the task believes it to be; a catalog takes a commit only on the metadata that it is based on
//! (`assert-ref-snapshot-id`), so of two tasks that both believe to have a partition one commits and the other learns that it does not. A crash
//! leaves a commit that was made or was not: the property says which.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use iceberg::table::Table;
use iceberg::{
    Catalog, CatalogBuilder, Error, ErrorKind, Namespace, NamespaceIdent, Result, TableCommit, TableCreation,
    TableIdent,
};
use iceberg_catalog_rest::{RestCatalog, RestCatalogBuilder};
use iceberg_storage_opendal::OpenDalResolvingStorageFactory;

/// How long the catalog may take to be reached, and to answer.
const CONNECT_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// What the properties of offsets begin with; then connector, topic and partition, between slashes.
const OFFSETS: &str = "strandline.offsets";

pub type Inner = Arc<RestCatalog>;

/// The property that has a partition's next offset. A topic has no slash in its name, so no two partitions share one.
pub fn property(connector: &str, topic: &str, partition: i32) -> String {
    format!("{OFFSETS}/{connector}/{topic}/{partition}")
}

/// What the table says comes next.
pub fn offset_in(table: &Table, property: &str) -> Result<Option<i64>> {
    let Some(text) = table.metadata().properties().get(property) else { return Ok(None) };
    let wrong =
        || Error::new(ErrorKind::DataInvalid, format!("the table's property {property} is {text:?}, no offset"));
    text.parse().ok().filter(|offset| *offset >= 0).map(Some).ok_or_else(wrong)
}

/// No call yet.
pub async fn connect(properties: HashMap<String, String>) -> Result<Inner> {
    let storage = Arc::new(OpenDalResolvingStorageFactory::new());
    let client = reqwest::Client::builder().connect_timeout(CONNECT_MAX).timeout(ANSWER_MAX).build();
    let client = client.map_err(|e| Error::new(ErrorKind::Unexpected, format!("no HTTP client: {e}")))?;
    let builder = RestCatalogBuilder::default().with_client(client).with_storage_factory(storage);
    let catalog = builder.load("iceberg", properties).await?;
    Ok(Arc::new(catalog))
}

/// A catalog through which only tables are seen whose offsets are as expected.
#[derive(Debug)]
pub struct Guarded {
    pub inner: Inner,
    /// By property; None = not there.
    pub expected: Vec<(String, Option<i64>)>,
}

#[async_trait]
impl Catalog for Guarded {
    async fn load_table(&self, table: &TableIdent) -> Result<Table> {
        let table = self.inner.load_table(table).await?;
        for (property, expected) in &self.expected {
            let found = offset_in(&table, property)?;
            if found != *expected {
                let text = format!("{property} is {found:?} and was {expected:?}: another task has committed");
                return Err(Error::new(ErrorKind::PreconditionFailed, text));
            }
        }
        Ok(table)
    }

    async fn update_table(&self, commit: TableCommit) -> Result<Table> {
        self.inner.update_table(commit).await
    }

    async fn list_namespaces(&self, parent: Option<&NamespaceIdent>) -> Result<Vec<NamespaceIdent>> {
        self.inner.list_namespaces(parent).await
    }

    async fn create_namespace(&self, name: &NamespaceIdent, properties: HashMap<String, String>) -> Result<Namespace> {
        self.inner.create_namespace(name, properties).await
    }

    async fn get_namespace(&self, name: &NamespaceIdent) -> Result<Namespace> {
        self.inner.get_namespace(name).await
    }

    async fn namespace_exists(&self, name: &NamespaceIdent) -> Result<bool> {
        self.inner.namespace_exists(name).await
    }

    async fn update_namespace(&self, name: &NamespaceIdent, properties: HashMap<String, String>) -> Result<()> {
        self.inner.update_namespace(name, properties).await
    }

    async fn drop_namespace(&self, name: &NamespaceIdent) -> Result<()> {
        self.inner.drop_namespace(name).await
    }

    async fn list_tables(&self, namespace: &NamespaceIdent) -> Result<Vec<TableIdent>> {
        self.inner.list_tables(namespace).await
    }

    async fn create_table(&self, namespace: &NamespaceIdent, creation: TableCreation) -> Result<Table> {
        self.inner.create_table(namespace, creation).await
    }

    async fn drop_table(&self, table: &TableIdent) -> Result<()> {
        self.inner.drop_table(table).await
    }

    async fn purge_table(&self, table: &TableIdent) -> Result<()> {
        self.inner.purge_table(table).await
    }

    async fn table_exists(&self, table: &TableIdent) -> Result<bool> {
        self.inner.table_exists(table).await
    }

    async fn rename_table(&self, from: &TableIdent, to: &TableIdent) -> Result<()> {
        self.inner.rename_table(from, to).await
    }

    async fn register_table(&self, table: &TableIdent, metadata: String) -> Result<Table> {
        self.inner.register_table(table, metadata).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As docs/formats/iceberg-offsets.md has it: tables that are written to hold these names.
    #[test]
    fn a_property_is_named_as_it_always_was() {
        assert_eq!(property("lake/a", "orders.v1", 3), "strandline.offsets/lake/a/orders.v1/3");
    }
}
