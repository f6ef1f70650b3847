//! What is asked of a row: its own plan, else the plan table's, else the call's, else the scheme's
//! default.

use super::options::Options;
use super::table::PlanRow;
use crate::error::{InvalidSetting, RowError, Unfit, UnknownScheme};
use crate::relation::weights::Weights;
use crate::scheme::{self, Bound, Choice, Geometry, Scheme};
use crate::settings::{SIGNED_SCALES, Settings};

/// What is asked of a row, before it is known whether it can be done.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    scheme: Result<Choice, Box<UnknownScheme>>,
    settings: Result<Settings, Box<InvalidSetting>>,
}

impl Asked {
    /// A layer that is kept.
    pub(crate) fn keep() -> Self {
        Self { scheme: Ok(Choice::Keep), settings: Ok(Settings::default()) }
    }

    /// To encode with that scheme, which is one of ours.
    pub(crate) fn to_encode(scheme: &str, settings: Settings) -> Self {
        let scheme = scheme::find(scheme).map_err(Box::new);
        let Ok(Choice::Encode(found)) = scheme else {
            return Self { scheme, settings: Ok(settings) };
        };
        Self { scheme, settings: Ok(settings.or(&found.defaults())) }
    }

    /// What is asked of row `row`, of which a plan says `planned`.
    pub(crate) fn of(weights: &Weights, row: usize, planned: &PlanRow, options: &Options) -> Self {
        let (scheme, own) = weights.plan(row);
        let scheme = match scheme.or(planned.scheme.as_deref()) {
            Some(name) => scheme::find(name).map_err(Box::new),
            None => Ok(options.scheme),
        };
        let said = own.map_err(Box::new).and_then(|own| match &planned.settings {
            Ok(planned) => Ok(own.or(planned)),
            Err(error) => Err(Box::new(error.clone())),
        });
        let Ok(Choice::Encode(found)) = scheme else {
            return Self { scheme, settings: said };
        };
        let defaults = found.defaults();
        let settings = said.and_then(|said| match said.beyond(&defaults) {
            Some(setting) => Err(Box::new(InvalidSetting::lacks(found.name(), setting.column))),
            None => {
                let mut of_call = options.settings.only(&defaults);
                // A row with zero points has no use for what the call says of symmetric ones.
                if said.symmetric() == Some(false) {
                    of_call.set(SIGNED_SCALES, None);
                }
                Ok(said.or(&of_call).or(&defaults))
            }
        });
        Self { scheme, settings }
    }

    /// The scheme's name as it was asked for.
    pub(crate) fn name(&self) -> &str {
        match &self.scheme {
            Ok(choice) => choice.name(),
            Err(unknown) => &unknown.name,
        }
    }

    /// The settings, as far as they can be.
    pub(crate) fn settings(&self) -> Settings {
        self.settings.as_ref().copied().unwrap_or_default()
    }

    /// The scheme, with the settings checked as far as that needs no matrix.
    pub(crate) fn choice(&self) -> Result<Choice, RowError> {
        let choice = self.scheme.clone().map_err(|unknown| RowError::UnknownScheme(*unknown))?;
        if let Choice::Encode(_) = choice {
            let settings = self.settings.clone();
            let settings = settings.map_err(|error| RowError::InvalidSetting(*error))?;
            settings.check_group_size().map_err(RowError::InvalidGroupSize)?;
        }
        Ok(choice)
    }

    /// The scheme's layout of a matrix.
    pub(crate) fn bind(
        &self,
        scheme: &'static dyn Scheme,
        geometry: &Geometry,
    ) -> Result<Bound, RowError> {
        let search = self.settings().search();
        if !scheme.searches().contains(&search) {
            return Err(RowError::InvalidSetting(InvalidSetting::lacks_search(
                scheme.name(),
                scheme.searches(),
                search,
            )));
        }
        scheme.bind(geometry, &self.settings()).map_err(|unfit| match unfit {
            Unfit::Shape(why) => {
                RowError::UnsupportedShape { why, fits: scheme::fitting(geometry) }
            }
            Unfit::GroupSize(error) => RowError::InvalidGroupSize(error),
            Unfit::Setting(error) => RowError::InvalidSetting(error),
        })
    }
}
