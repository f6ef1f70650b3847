//! Tables that say, by layer name, what to do.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use glob::Pattern;

use crate::error::{CallError, Error, InvalidSetting};
use crate::relation::columns::{self, Finder};
use crate::relation::settings::SettingColumns;
use crate::relation::text::Text;
use crate::scheme;
use crate::settings::Settings;

/// What a plan's row says of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlanRow {
    pub(crate) scheme: Option<String>,
    pub(crate) settings: Result<Settings, InvalidSetting>,
}

impl PlanRow {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        Self { scheme: None, settings: Ok(Settings::default()) }
    }
}

/// A table whose names are shell patterns; of the rows that match a layer, the first counts. A name
/// that holds a pattern's characters matches itself, too.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    table: Arc<Table>,
}

#[derive(Debug, Default)]
struct Table {
    rows: Vec<(String, PlanRow)>,
    /// The first row of each name.
    exact: HashMap<String, usize>,
    /// The rows whose names are patterns.
    patterns: Vec<(usize, Pattern)>,
}

impl Plan {
    /// The plan in the columns `layer_name`, `scheme` and those of settings of `batches`; all but the
    /// name are optional, others are ignored.
    ///
    /// # Errors
    /// A column is missing or has a type that can't be, or rows of one name contradict each other.
    pub fn try_new(batches: &[RecordBatch]) -> Result<Self, Error> {
        let mut table = Table { rows: plan_rows(batches)?, ..Table::default() };
        for (at, (name, planned)) in table.rows.iter().enumerate() {
            let first = *table.exact.entry(name.clone()).or_insert(at);
            if table.rows[first].1 != *planned {
                return Err(CallError::PlanContradicts(name.clone()).into());
            }
            if first == at
                && is_pattern(name)
                && let Ok(pattern) = Pattern::new(name)
            {
                table.patterns.push((at, pattern));
            }
        }
        Ok(Self { table: Arc::new(table) })
    }

    /// The same of a table that speaks of no one layer: schemes and group sizes must be some.
    ///
    /// # Errors
    /// As there; also a scheme, setting or group size that there is not.
    pub fn of_rules(batches: &[RecordBatch]) -> Result<Self, Error> {
        let plan = Self::try_new(batches)?;
        for (_, row) in &plan.table.rows {
            if let Some(name) = &row.scheme {
                scheme::find(name).map_err(CallError::from)?;
            }
            let settings = row.settings.clone().map_err(CallError::from)?;
            settings.check_group_size().map_err(CallError::from)?;
        }
        Ok(plan)
    }

    /// Whether it says nothing of any layer.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.rows.is_empty()
    }

    /// The first row that matches a layer, and its place.
    pub(crate) fn find(&self, name: &str) -> Option<(usize, &PlanRow)> {
        let exact = self.table.exact.get(name).copied();
        let earlier = |at: usize| exact.is_none_or(|exact| at < exact);
        let matching = self.table.patterns.iter().take_while(|(at, _)| earlier(*at));
        let pattern = matching.into_iter().find(|(_, pattern)| pattern.matches(name));
        let at = pattern.map(|(at, _)| *at).or(exact)?;
        Some((at, &self.table.rows[at].1))
    }

    /// The names of its rows, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.table.rows.iter().map(|(name, _)| name.as_str())
    }
}

/// Whether a name is a pattern. The place of a matrix in its stack (`…experts.down_proj[3]`) is none.
fn is_pattern(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let matrix = name.strip_suffix(']').and_then(|name| name.rsplit_once('['));
    let name = matrix.filter(|(_, index)| digits(index)).map_or(name, |(stack, _)| stack);
    name.contains(['*', '?', '['])
}

/// Refuse a schema that no plan can have.
///
/// # Errors
/// A column is missing or has a type that can't be.
pub fn check_plan(schema: &Schema) -> Result<(), CallError> {
    let finder = Finder::new(schema, "Plans");
    finder.required("layer_name", columns::TEXT, finder.text("layer_name")?)?;
    finder.text("scheme")?;
    SettingColumns::find(&finder)?;
    Ok(())
}

/// The rows of a plan with their names, in order; those without a name are left out.
fn plan_rows(batches: &[RecordBatch]) -> Result<Vec<(String, PlanRow)>, Error> {
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let finder = Finder::new(&schema, "Plans");
        let column = |index: usize| batch.column(index);
        let name = finder.required("layer_name", columns::TEXT, finder.text("layer_name")?)?;
        let names = Text::try_new(column(name))?;
        let schemes = finder.text("scheme")?.map(|i| Text::try_new(column(i))).transpose()?;
        let settings = SettingColumns::find(&finder)?.bind(batch.columns())?;
        for row in 0..batch.num_rows() {
            let Some(name) = names.get(row) else {
                continue;
            };
            let planned = PlanRow {
                scheme: schemes.as_ref().and_then(|rows| rows.get(row)).map(str::to_owned),
                settings: settings.get(row),
            };
            rows.push((name.to_owned(), planned));
        }
    }
    Ok(rows)
}
