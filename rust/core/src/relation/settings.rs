//! The columns of settings, in weights and in plans.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, StringArray};
use arrow_schema::{ArrowError, DataType, Field};

use super::columns::{self, Finder};
use super::text::Text;
use crate::error::{CallError, InvalidSetting};
use crate::settings::{ALL, Kind, Setting, Settings, Value};

/// Where the columns of settings are.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingColumns {
    places: [Option<usize>; ALL.len()],
}

impl SettingColumns {
    /// The columns that are there.
    pub(crate) fn find(finder: &Finder<'_>) -> Result<Self, CallError> {
        Self::find_some(finder, &std::array::from_fn::<_, { ALL.len() }, _>(|at| at))
    }

    /// Of these settings, the columns that are there.
    pub(crate) fn find_some(finder: &Finder<'_>, settings: &[usize]) -> Result<Self, CallError> {
        let mut found = Self::default();
        for &at in settings {
            let Setting { kind, column, .. } = ALL[at];
            found.places[at] = match kind {
                Kind::Integer => finder.integer(column)?,
                Kind::Flag => finder.boolean(column)?,
                Kind::Choice(_) => finder.text(column)?,
            };
        }
        Ok(found)
    }

    /// The columns, of those of a batch.
    pub(crate) fn bind(&self, batch: &[ArrayRef]) -> Result<SettingRows, ArrowError> {
        let mut rows = SettingRows::default();
        for ((column, place), setting) in rows.columns.iter_mut().zip(self.places).zip(&ALL) {
            let Some(index) = place else { continue };
            let found = &batch[index];
            *column = Some(match setting.kind {
                Kind::Integer => Column::Integers(columns::integer(found, setting.column)?),
                Kind::Flag => Column::Flags(columns::boolean(found)?),
                Kind::Choice(_) => Column::Texts(Text::try_new(found)?),
            });
        }
        Ok(rows)
    }
}

fn unknown(setting: &Setting, word: &str) -> InvalidSetting {
    let choices = setting.choices().join(", ");
    InvalidSetting(format!("{} '{word}' is unknown. Choose one of {choices}", setting.column))
}

/// The columns of all settings, as a plan has them.
pub(crate) fn fields() -> impl Iterator<Item = Field> {
    ALL.iter().map(|setting| {
        let data_type = match setting.kind {
            Kind::Integer => DataType::Int64,
            Kind::Flag => DataType::Boolean,
            Kind::Choice(_) => DataType::Utf8,
        };
        Field::new(setting.column, data_type, true)
    })
}

/// The columns of [`fields`]; null where nothing is said.
pub(crate) fn written<'a>(
    rows: impl Iterator<Item = Settings> + Clone + 'a,
) -> impl Iterator<Item = ArrayRef> + 'a {
    ALL.iter().enumerate().map(move |(at, setting)| -> ArrayRef {
        let values = rows.clone().map(move |settings| settings.get(at));
        match setting.kind {
            Kind::Integer => Arc::new(
                values
                    .map(|value| match value {
                        Some(Value::Integer(value)) => Some(value),
                        _ => None,
                    })
                    .collect::<Int64Array>(),
            ),
            Kind::Flag => Arc::new(
                values
                    .map(|value| match value {
                        Some(Value::Flag(value)) => Some(value),
                        _ => None,
                    })
                    .collect::<BooleanArray>(),
            ),
            Kind::Choice(_) => Arc::new(
                values
                    .map(|value| match value {
                        Some(Value::Choice(word)) => Some(word),
                        _ => None,
                    })
                    .collect::<StringArray>(),
            ),
        }
    })
}

#[derive(Debug)]
enum Column {
    Integers(Int64Array),
    Flags(BooleanArray),
    Texts(Text),
}

/// The columns themselves.
#[derive(Debug, Default)]
pub(crate) struct SettingRows {
    columns: [Option<Column>; ALL.len()],
}

impl SettingRows {
    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.columns.iter().all(Option::is_none)
    }

    /// What a row says.
    ///
    /// # Errors
    /// A word that is none of a setting's choices.
    pub(crate) fn get(&self, row: usize) -> Result<Settings, InvalidSetting> {
        self.get_some(row, |_| true)
    }

    /// What a row says of the settings that `others` say something of, too.
    ///
    /// # Errors
    /// As [`Self::get`], of these settings.
    pub(crate) fn get_only(
        &self,
        row: usize,
        others: &Settings,
    ) -> Result<Settings, InvalidSetting> {
        self.get_some(row, |at| others.get(at).is_some())
    }

    fn get_some(
        &self,
        row: usize,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Settings, InvalidSetting> {
        let mut settings = Settings::default();
        for (at, (column, setting)) in self.columns.iter().zip(&ALL).enumerate() {
            let value = match column.as_ref().filter(|_| wanted(at)) {
                None => None,
                Some(Column::Integers(rows)) => {
                    columns::integer_at(Some(rows), row).map(Value::Integer)
                }
                Some(Column::Flags(rows)) => columns::boolean_at(Some(rows), row).map(Value::Flag),
                Some(Column::Texts(rows)) => {
                    let read =
                        |word: &str| setting.choice(word).ok_or_else(|| unknown(setting, word));
                    rows.get(row).map(read).transpose()?
                }
            };
            settings.set(at, value);
        }
        Ok(settings)
    }
}
