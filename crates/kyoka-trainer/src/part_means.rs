//! Means by name.

/// Means by name, each over the completions that have the part.
#[derive(Default)]
pub(crate) struct PartMeans(Vec<(String, f64, f64)>);

impl PartMeans {
    pub fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(part, _, _)| part == name) {
            Some((_, sum, count)) => {
                *sum += value;
                *count += 1.0;
            }
            None => self.0.push((name.to_owned(), value, 1.0)),
        }
    }

    pub fn finish(self) -> Vec<(String, f64)> {
        self.0.into_iter().map(|(name, sum, count)| (name, sum / count)).collect()
    }
}
