//! The options of a call.

use crate::dtype::Float;
use crate::error::{CallError, InvalidSetting, Unfit};
use crate::scheme::{self, Choice, Geometry};
use crate::settings::Settings;

/// The options of a call, for the rows that no plan says otherwise of.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do.
    pub scheme: Choice,
    /// Whether the call says so: what is packed already is quantized anew only then.
    pub is_said: bool,
    /// How; rows whose plan gives them another scheme take of it what that has.
    pub settings: Settings,
}

/// A matrix that every scheme takes: what can't be had for it can't be had at all.
const ANY: Geometry = Geometry { rows: 256, columns: 256, source: Float::F32 };

impl Options {
    /// Options from a scheme's name, which the call says.
    ///
    /// # Errors
    /// There is no such scheme, it lacks a setting that is given, or one can't be.
    pub fn try_new(scheme: &str, settings: Settings) -> Result<Self, CallError> {
        settings.check_group_size()?;
        let scheme = scheme::find(scheme)?;
        if let Choice::Encode(found) = scheme
            && let Some(setting) = settings.beyond(&found.defaults())
        {
            return Err(InvalidSetting::lacks(found.name(), setting.name).into());
        }
        if let Choice::Encode(found) = scheme
            && let Err(Unfit::Setting(error)) = found.bind(&ANY, &settings)
        {
            return Err(error.into());
        }
        Ok(Self { scheme, is_said: true, settings })
    }
}
