//! What can be said of how a layer is quantized, beside its scheme: each setting once.
//!
//! A setting is a keyword of calls, a column of plans and of weights, a flag of the command line and a
//! line of the docs. All of these are made from [`ALL`].

use crate::dtype::ScaleDtype;
use crate::error::InvalidGroupSize;

/// What a setting's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole numbers.
    Integer,
    /// Yes or no.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// What calls name it.
    pub name: &'static str,
    /// What plans and relations name it.
    pub column: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// What holds where nothing is said, for people.
    pub default: &'static str,
    /// What it means, for people.
    pub help: &'static str,
}

/// Elements of a row that share a scale.
pub const GROUP_SIZE: usize = 0;
/// Rows that share a scale.
pub const GROUP_ROWS: usize = 1;
/// Whether zero is the middle code.
pub const SYMMETRIC: usize = 2;
/// What scales are rounded to.
pub const SCALE_DTYPE: usize = 3;
/// Whether the scales of symmetric integers may be negative.
pub const SIGNED_SCALES: usize = 4;
/// How parameters are chosen.
pub const SEARCH: usize = 5;

/// Every setting, at its place.
pub static ALL: [Setting; 6] = [
    Setting {
        name: "group_size",
        column: "group_size",
        kind: Kind::Integer,
        default: "the scheme's",
        help: "Elements of a row that share a scale; -1: all of a row.",
    },
    Setting {
        name: "group_rows",
        column: "group_rows",
        kind: Kind::Integer,
        default: "the scheme's",
        help: "Rows that share a scale; -1: all of a matrix.",
    },
    Setting {
        name: "symmetric",
        column: "is_symmetric",
        kind: Kind::Flag,
        default: "the scheme's",
        help: "Whether zero is the middle code.",
    },
    Setting {
        name: "scale_dtype",
        column: "scale_dtype",
        kind: Kind::Choice(&["source", "F32", "F16", "BF16"]),
        default: "the scheme's",
        help: "What scales are rounded to; source: F16 or BF16 as the weights, else F32.",
    },
    Setting {
        name: "signed_scales",
        column: "signed_scales",
        kind: Kind::Flag,
        default: "no",
        help: "Whether the scales of symmetric integers may be negative: a group's largest magnitude then gets \
               the lowest code, which reaches one step further than the highest.",
    },
    Setting {
        name: "search",
        column: "search",
        kind: Kind::Choice(&["none", "mse", "weighted"]),
        default: "the scheme's",
        help: "How scales are chosen; none: from each group's extremes; mse: for the least squared error; \
               weighted: the same, each error weighed by how much its column matters.",
    },
];

/// A setting's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Choice`]: one of its words.
    Choice(&'static str),
}

impl Setting {
    /// The words that it may be.
    pub fn choices(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Choice(choices) => choices,
            Kind::Integer | Kind::Flag => &[],
        }
    }

    /// The choice that `word` is, if it is one.
    pub fn choice(&self, word: &str) -> Option<Value> {
        self.choices().iter().find(|choice| **choice == word).map(|choice| Value::Choice(choice))
    }
}

/// What is said of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: [Option<Value>; ALL.len()],
}

impl Settings {
    /// The value of the setting at that place.
    pub fn get(&self, setting: usize) -> Option<Value> {
        self.values[setting]
    }

    /// Say something of the setting at that place.
    pub fn set(&mut self, setting: usize, value: Option<Value>) {
        self.values[setting] = value;
    }

    /// The same, with that value.
    #[must_use]
    pub fn with(mut self, setting: usize, value: Value) -> Self {
        self.values[setting] = Some(value);
        self
    }

    /// The same, and what `others` say where nothing is said here.
    #[must_use]
    pub fn or(mut self, others: &Self) -> Self {
        for (value, other) in self.values.iter_mut().zip(others.values) {
            *value = value.or(other);
        }
        self
    }

    /// Only the settings that `others` say something of.
    #[must_use]
    pub fn only(mut self, others: &Self) -> Self {
        for (value, other) in self.values.iter_mut().zip(others.values) {
            *value = value.filter(|_| other.is_some());
        }
        self
    }

    /// The first setting that something is said of here, and nothing by `others`.
    pub fn beyond(&self, others: &Self) -> Option<&'static Setting> {
        let beyond = |at: &usize| self.values[*at].is_some() && others.values[*at].is_none();
        (0..ALL.len()).find(beyond).map(|at| &ALL[at])
    }

    fn integer(&self, setting: usize) -> Option<i64> {
        match self.values[setting] {
            Some(Value::Integer(value)) => Some(value),
            _ => None,
        }
    }

    /// Elements of a row that share a scale; -1: all of a row.
    pub fn group_size(&self) -> Option<i64> {
        self.integer(GROUP_SIZE)
    }

    /// Rows that share a scale; -1: all.
    pub fn group_rows(&self) -> Option<i64> {
        self.integer(GROUP_ROWS)
    }

    fn flag(&self, setting: usize) -> Option<bool> {
        match self.values[setting] {
            Some(Value::Flag(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether zero is the middle code.
    pub fn symmetric(&self) -> Option<bool> {
        self.flag(SYMMETRIC)
    }

    /// What scales are rounded to; nothing for `source`, and where nothing is said.
    pub fn scale_dtype(&self) -> Option<ScaleDtype> {
        match self.values[SCALE_DTYPE] {
            Some(Value::Choice(name)) => ScaleDtype::from_name(name),
            _ => None,
        }
    }

    /// Whether the scales of symmetric integers may be negative.
    pub fn signed_scales(&self) -> Option<bool> {
        self.flag(SIGNED_SCALES)
    }

    /// How parameters are chosen.
    pub fn search(&self) -> &'static str {
        match self.values[SEARCH] {
            Some(Value::Choice(name)) => name,
            _ => "none",
        }
    }

    /// Refuse group sizes that there can't be.
    ///
    /// # Errors
    /// A number that is neither positive nor -1.
    pub fn check_group_size(&self) -> Result<(), InvalidGroupSize> {
        match self.group_size() {
            Some(size) if size <= 0 && size != -1 => Err(InvalidGroupSize(size)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_at_its_place() {
        let names = [
            (GROUP_SIZE, "group_size"),
            (GROUP_ROWS, "group_rows"),
            (SYMMETRIC, "symmetric"),
            (SCALE_DTYPE, "scale_dtype"),
            (SIGNED_SCALES, "signed_scales"),
            (SEARCH, "search"),
        ];
        assert_eq!(names.len(), ALL.len());
        for (at, name) in names {
            assert_eq!(ALL[at].name, name);
        }
        assert!(ALL[SCALE_DTYPE].choice("BF16").is_some());
        assert!(ALL[SCALE_DTYPE].choice("F8").is_none());
    }

    #[test]
    fn what_is_said_first_holds() {
        let mut one = Settings::default();
        one.set(GROUP_SIZE, Some(Value::Integer(32)));
        let mut other = one;
        other.set(GROUP_SIZE, Some(Value::Integer(64)));
        other.set(SYMMETRIC, Some(Value::Flag(true)));
        let both = one.or(&other);
        assert_eq!((both.group_size(), both.symmetric()), (Some(32), Some(true)));
        assert_eq!(both.beyond(&one).map(|setting| setting.name), Some("symmetric"));
        assert_eq!(both.only(&one), one);
    }
}
