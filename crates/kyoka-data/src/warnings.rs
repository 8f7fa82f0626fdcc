//! What a user should know about a file that can be used.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use kyoka_core::{Origin, Place};

/// Gathers what is noteworthy in the rows of a file.
#[derive(Default)]
pub(crate) struct Notes {
    place_of_id: HashMap<String, Place>,
    num_repeated: usize,
    /// An id that stands twice, and where.
    repeated: Option<(String, Place, Origin)>,
    unread: Vec<(String, Origin)>,
    known_unread: HashSet<String>,
}

/// What a warning says of columns that nothing reads, before their names.
pub const UNREAD: &str = ": nothing reads ";

impl Notes {
    /// A row of this name stands there.
    pub fn id(&mut self, id: &str, origin: &Origin) {
        match self.place_of_id.get(id) {
            None => drop(self.place_of_id.insert(id.to_owned(), origin.place)),
            Some(&first) => {
                self.num_repeated += 1;
                self.repeated.get_or_insert_with(|| (id.to_owned(), first, origin.clone()));
            }
        }
    }

    /// Nothing reads this column of the row there.
    pub fn unread(&mut self, column: String, origin: &Origin) {
        if self.known_unread.insert(column.clone()) {
            self.unread.push((column, origin.clone()));
        }
    }

    /// One message a kind.
    pub fn messages(self, file: &Path) -> Vec<String> {
        let mut messages = Vec::new();
        if let Some((_, first)) = self.unread.first() {
            let names: Vec<String> = self.unread.iter().map(|(name, _)| format!("`{name}`")).collect();
            messages.push(format!("{first}{UNREAD}{}", names.join(", ")));
        }
        if let Some((id, first, second)) = self.repeated {
            let first = Origin { file: file.to_owned(), place: first };
            let count = self.num_repeated;
            messages
                .push(format!("{second}: id: {id} stands at {first} already; {count} row(s) repeat an id"));
        }
        messages
    }
}
