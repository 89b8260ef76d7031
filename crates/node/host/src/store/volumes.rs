//! Records of volumes, among the documents of the same file.

use flynn_volume::{StoreFailure, VolumeRecord, VolumeStore};

use super::Database;

const PREFIX: &str = "volume/";

impl VolumeStore for Database {
    fn load(&self) -> Result<Vec<VolumeRecord>, StoreFailure> {
        self.documents(PREFIX).map_err(StoreFailure::new)
    }

    fn save(&self, id: &str, record: Option<&VolumeRecord>) -> Result<(), StoreFailure> {
        self.put_document(&format!("{PREFIX}{id}"), record).map_err(StoreFailure::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let record = |id: &str| {
            let mut record = VolumeRecord::default();
            record.info.id = id.to_owned();
            record
        };
        let database = Database::open(&path).unwrap();
        database.put_document("volumes-of-something-else", Some(&1)).unwrap();
        for id in ["a", "b"] {
            database.save(id, Some(&record(id))).unwrap();
        }
        database.save("a", None).unwrap();
        drop(database);
        assert_eq!(Database::open(&path).unwrap().load().unwrap(), [record("b")]);
    }
}
