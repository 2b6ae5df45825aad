//! One table of a task: its schema, the files that are being written, and their commit.
//!
//! Owns the writer and the files that no snapshot names yet. Does not own offsets, which the sink hands in with a commit. Invariants: files
//! are named by random numbers, so that no two tasks ever write one; after a failed write or commit nothing here is used again, because
//! what is in the table is not known. A crash leaves files without a snapshot.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema as ArrowSchema, SchemaRef};
use iceberg::arrow::{
    RecordBatchPartitionSplitter, arrow_schema_to_schema_auto_assign_ids, arrow_type_to_type, schema_to_arrow_schema,
};
use iceberg::spec::{DataFile, DataFileFormat, UnboundPartitionSpec};
use iceberg::table::Table;
use iceberg::transaction::{AddColumn, ApplyTransactionAction, Transaction};
use iceberg::writer::base_writer::data_file_writer::{DataFileWriter, DataFileWriterBuilder};
use iceberg::writer::file_writer::ParquetWriterBuilder;
use iceberg::writer::file_writer::location_generator::{DefaultFileNameGenerator, DefaultLocationGenerator};
use iceberg::writer::file_writer::rolling_writer::RollingFileWriterBuilder;
use iceberg::writer::partitioning::PartitioningWriter;
use iceberg::writer::partitioning::fanout_writer::FanoutWriter;
use iceberg::writer::{IcebergWriter, IcebergWriterBuilder};
use iceberg::{Catalog, Error, ErrorKind, Result, TableCreation, TableIdent};
use uuid::Uuid;

use crate::catalog::{Guarded, Inner};
use crate::columns::Incoming;
use crate::settings::{PartitionBy, Settings};

/// How often a schema is changed again because somebody else has changed it.
const EVOLUTIONS_MAX: usize = 5;

type Files = DataFileWriterBuilder<ParquetWriterBuilder, DefaultLocationGenerator, DefaultFileNameGenerator>;
type OneFile = DataFileWriter<ParquetWriterBuilder, DefaultLocationGenerator, DefaultFileNameGenerator>;

enum Writer {
    Whole(Box<OneFile>),
    Parted(Box<FanoutWriter<Files>>, Box<RecordBatchPartitionSplitter>),
}

/// A table that rows are written to.
pub struct Open {
    pub table: Table,
    rows: SchemaRef,
    writer: Option<Writer>,
    files: Vec<DataFile>,
}

/// None = not partitioned.
fn spec(partition_by: &[PartitionBy], schema: &iceberg::spec::Schema) -> Result<Option<UnboundPartitionSpec>> {
    if partition_by.is_empty() {
        return Ok(None);
    }
    // Java's catalogs insist on an id.
    let mut builder = UnboundPartitionSpec::builder().with_spec_id(0);
    for by in partition_by {
        let id = schema.field_id_by_name(&by.column).ok_or_else(|| {
            let text = format!(
                "iceberg.tables.default-partition-by names the column {}, which the records do not have",
                by.column
            );
            Error::new(ErrorKind::FeatureUnsupported, text)
        })?;
        let transform = by.transform.to_string();
        let short = transform.split('[').next().unwrap_or_default();
        let name = if short == "identity" { by.column.clone() } else { format!("{}_{short}", by.column) };
        builder = builder.add_partition_field(id, name, by.transform)?;
    }
    Ok(Some(builder.build()))
}

/// The table; None = it is not there.
pub async fn find(catalog: &Inner, name: &TableIdent) -> Result<Option<Table>> {
    match catalog.load_table(name).await {
        Ok(table) => Ok(Some(table)),
        Err(error) if matches!(error.kind(), ErrorKind::TableNotFound | ErrorKind::NamespaceNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a table with the fields of these rows, and its namespace if that is not there.
pub async fn create(catalog: &Inner, name: &TableIdent, rows: &Incoming, settings: &Settings) -> Result<Table> {
    let fields = rows.fields().map_err(|e| Error::new(ErrorKind::FeatureUnsupported, e.to_string()))?;
    let schema = arrow_schema_to_schema_auto_assign_ids(&ArrowSchema::new(fields))?;
    let spec = spec(&settings.partition_by, &schema)?;
    if !catalog.namespace_exists(name.namespace()).await? {
        match catalog.create_namespace(name.namespace(), Default::default()).await {
            Err(error) if error.kind() != ErrorKind::NamespaceAlreadyExists => return Err(error),
            _ => {}
        }
    }
    let creation =
        TableCreation::builder().name(name.name().to_owned()).schema(schema).partition_spec_opt(spec).build();
    match catalog.create_table(name.namespace(), creation).await {
        Err(error) if error.kind() == ErrorKind::TableAlreadyExists => catalog.load_table(name).await,
        other => other,
    }
}

impl Open {
    pub fn new(table: Table) -> Result<Open> {
        let rows = Arc::new(schema_to_arrow_schema(table.metadata().current_schema())?);
        Ok(Open { table, rows, writer: None, files: Vec::new() })
    }

    /// What rows of this table look like.
    pub fn rows(&self) -> &SchemaRef {
        &self.rows
    }

    /// Whether there is anything to commit.
    pub fn is_dirty(&self) -> bool {
        self.writer.is_some() || !self.files.is_empty()
    }

    /// Fields that the table lacks.
    pub fn missing(&self, fields: Vec<Field>) -> Vec<Field> {
        fields.into_iter().filter(|field| self.rows.field_with_name(field.name()).is_err()).collect()
    }

    async fn begin(&self) -> Result<Writer> {
        let metadata = self.table.metadata();
        let properties = metadata.table_properties()?;
        let schema = Arc::clone(metadata.current_schema());
        let parquet = ParquetWriterBuilder::from_table_properties(&properties, Arc::clone(&schema));
        let names = DefaultFileNameGenerator::new(Uuid::new_v4().to_string(), None, DataFileFormat::Parquet);
        let files = DataFileWriterBuilder::new(RollingFileWriterBuilder::new(
            parquet,
            properties.write_target_file_size_bytes,
            self.table.file_io().clone(),
            DefaultLocationGenerator::new(metadata)?,
            names,
        ));
        let spec = metadata.default_partition_spec();
        if spec.is_unpartitioned() {
            return Ok(Writer::Whole(Box::new(files.build(None).await?)));
        }
        let splitter = RecordBatchPartitionSplitter::try_new_with_computed_values(schema, Arc::clone(spec))?;
        Ok(Writer::Parted(Box::new(FanoutWriter::new(files)), Box::new(splitter)))
    }

    /// Takes rows of [`Open::rows`].
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        if self.writer.is_none() {
            self.writer = Some(self.begin().await?);
        }
        match &mut self.writer {
            Some(Writer::Whole(file)) => file.write(batch).await,
            Some(Writer::Parted(files, splitter)) => {
                for (key, part) in splitter.split(&batch)? {
                    files.write(key, part).await?;
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Ends the files under way.
    async fn end_files(&mut self) -> Result<()> {
        match self.writer.take() {
            Some(Writer::Whole(mut file)) => self.files.extend(file.close().await?),
            Some(Writer::Parted(files, _)) => self.files.extend(files.close().await?),
            None => {}
        }
        Ok(())
    }

    /// Adds columns, all optional. Rows that were written before stay in files of their own.
    pub async fn evolve(&mut self, catalog: &Inner, fields: Vec<Field>) -> Result<()> {
        self.end_files().await?;
        let mut fields = fields;
        for last in 1..=EVOLUTIONS_MAX {
            let transaction = Transaction::new(&self.table);
            let mut change = transaction.update_schema();
            for field in &fields {
                change = change.add_column(AddColumn::optional(field.name(), arrow_type_to_type(field.data_type())?));
            }
            let outcome = change.apply(transaction)?.commit(catalog.as_ref()).await;
            self.table = match outcome {
                Ok(table) => table,
                Err(error) if last == EVOLUTIONS_MAX => return Err(error),
                // Another task may have added them.
                Err(_) => catalog.load_table(self.table.identifier()).await?,
            };
            self.rows = Arc::new(schema_to_arrow_schema(self.table.metadata().current_schema())?);
            fields = self.missing(fields);
            if fields.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Commits all rows together with these offsets, by property: what the table says now, and what comes next.
    pub async fn commit(&mut self, catalog: &Inner, moves: Vec<(String, Option<i64>, i64)>) -> Result<()> {
        self.end_files().await?;
        let transaction = Transaction::new(&self.table);
        let append =
            transaction.fast_append().with_check_duplicate(false).add_data_files(std::mem::take(&mut self.files));
        let mut offsets = transaction.update_table_properties();
        let mut expected = Vec::new();
        for (property, before, after) in moves {
            offsets = offsets.set(property.clone(), after.to_string());
            expected.push((property, before));
        }
        let transaction = offsets.apply(append.apply(transaction)?)?;
        let guarded = Guarded { inner: Arc::clone(catalog), expected };
        self.table = transaction.commit(&guarded as &dyn Catalog).await?;
        self.rows = Arc::new(schema_to_arrow_schema(self.table.metadata().current_schema())?);
        Ok(())
    }
}
