//! What is wrong with a call.

use super::option::{InvalidGroupSize, InvalidSetting, UnknownScheme};

/// A call that can't be carried out, whatever the rows hold.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A required column is missing.
    #[error("{relation} need a column '{column}' ({expected}); found {found}.{hint}")]
    MissingColumn {
        /// The relation that needs it.
        relation: &'static str,
        /// The column's name.
        column: &'static str,
        /// The types that it may have.
        expected: &'static str,
        /// The columns there are.
        found: String,
        /// What to do, where a column seems to be meant.
        hint: String,
    },
    /// A column's type can't be what its name says.
    #[error("column '{column}' has type {found}, expected {expected}.{hint}")]
    WrongType {
        /// The column's name.
        column: String,
        /// The types that it may have.
        expected: &'static str,
        /// Its type.
        found: String,
        /// What to do, where there is something special to say.
        hint: &'static str,
    },
    /// Rows that are null as a whole, of a column that can't be null.
    #[error(
        "the stream has null structs, but column '{column}' ({found}) can't be null. Filter these \
         rows out."
    )]
    NullStructs {
        /// The column's name.
        column: String,
        /// Its type.
        found: String,
    },
    /// A batch that is not of the stream's schema.
    #[error("a batch has other columns than its stream: ({found}) instead of ({expected}).")]
    SchemaChanged {
        /// The stream's columns.
        expected: String,
        /// The batch's.
        found: String,
    },
    /// Weights that are a quantized relation.
    #[error(
        "the relation is quantized already. Quantize it again with aq.quantize and scheme= or plan=, \
         decode it with aq.dequantize, or quantize its source."
    )]
    AlreadyQuantized,
    /// Two columns whose names are equal without case.
    #[error("columns '{0}' and '{1}' are given twice. Rename or drop one.")]
    DuplicateColumn(String, String),
    /// A column that would be carried under one of the output's own names.
    #[error("column '{0}' has the name of an output column. Rename it or drop it.")]
    ReservedColumn(String),
    /// See [`UnknownScheme`].
    #[error(transparent)]
    UnknownScheme(#[from] UnknownScheme),
    /// See [`InvalidGroupSize`].
    #[error(transparent)]
    InvalidGroupSize(#[from] InvalidGroupSize),
    /// See [`InvalidSetting`].
    #[error(transparent)]
    InvalidSetting(#[from] InvalidSetting),
    /// An option that is none of its choices.
    #[error("unknown {option} '{value}'. Choose one of {choices}.")]
    UnknownChoice {
        /// The option's name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What may be given.
        choices: String,
    },
    /// Two rows of a plan with one name and different contents.
    #[error(
        "the plan says two things of layer '{0}'. Layers of one name share a plan row; rename \
         them, or give the plan as columns of the weights."
    )]
    PlanContradicts(String),
    /// A number that would be another one in the type that its column must have.
    #[error(
        "column '{column}' has {value}, which would change in the type it needs. Cast it to {cast}."
    )]
    NotExact {
        /// The column's name.
        column: &'static str,
        /// The number.
        value: String,
        /// The type to cast it to, as SQL calls it.
        cast: &'static str,
    },
    /// A file of a newer format than this version reads.
    #[error(
        "the relation has format '{0}', newer than the '2' that this version reads. \
         Upgrade arrowquant."
    )]
    NewerFormat(String),
    /// A file of an older format than this version reads.
    #[error(
        "the relation has format '{0}', older than the '2' that this version reads. Quantize its \
         source again."
    )]
    OlderFormat(String),
    /// A pattern that can't be matched.
    #[error("invalid pattern '{pattern}': {why}.")]
    InvalidPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A thread count that no pool can have, or a pool that could not start.
    #[error("{0}")]
    Threads(String),
    /// The same layer twice, where names must be unique.
    #[error(
        "layer '{0}' comes twice, but names must be unique in {1}. Rename one, or filter it out."
    )]
    DuplicateLayer(String, &'static str),
    /// A layer that a runtime's format can't hold.
    #[error("layer '{layer}': {why}.")]
    Export {
        /// Its name.
        layer: String,
        /// Why, and what to do.
        why: String,
    },
    /// A column of a type that Parquet has nothing for.
    #[error("column '{column}' has type {found}, which Parquet can't hold. Cast it or drop it.")]
    NotStorable {
        /// The column's name.
        column: String,
        /// Its type.
        found: String,
    },
    /// A row of more bytes than a Parquet page can be.
    #[error(
        "layer '{layer}' takes {bytes} bytes, but a Parquet cell holds at most {largest}. Split \
         the layer on its rows, or write Arrow IPC."
    )]
    CellTooLarge {
        /// The layer's name.
        layer: String,
        /// What it takes.
        bytes: usize,
        /// What there is room for.
        largest: usize,
    },
    /// A file that can't be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it, and what to do.
        why: String,
    },
}
