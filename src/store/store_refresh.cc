// What is there has been found to be still good (RFC 9111, 4.3.4): a put that ends without bytes of
// its own, and says anew what is said of the object. The object keeps its id and its bytes, so that
// leases on it, and what others know it by, stay good.
#include "base/assert.h"
#include "store/store_impl.h"

namespace om::store {

// The record as it was.
Result<catalog::Record> StoreImpl::say_anew(const Put& put, ObjectId object) {
  OM_TRY(check(put.request));
  if (put.announced > 0)
    return Error{Errc::kMalformed, 0, "bytes of a new body were announced to others"};
  if (is_removed(put))
    return Error{Errc::kNotFound, 0, "it was removed for every cache since it was found stale"};
  auto record = OM_TRY(look_up(put.request.key));
  if (!record || record->object_id != object)
    return Error{Errc::kNotFound, 0, "the object to be refreshed is not there any more"};
  record->expires_ns = put.request.expires_ns;
  record->metadata = put.request.metadata;
  record->tags = put.request.tags;
  ++record->revision;
  auto before = OM_TRY(catalog_->publish(*record));
  OM_ASSERT(before.has_value());  // it was looked up just now
  note_expiry_again(before->expires_ns, *record);
  return *std::move(before);
}

void StoreImpl::refresh(HolderId holder, PutId id, ObjectId object, Amendment says,
                        CommitDone done) {
  Put* const put = find_put(holder, id);
  if (put == nullptr) return done(Error{Errc::kNotFound, 0, "no such put"});
  if (put->state != PutState::kWriting)
    return done(Error{Errc::kMalformed, 0, "the put is committed already"});
  put->done = std::move(done);
  put->request.expires_ns = says.expires_ns;
  put->request.metadata = std::move(says.metadata);
  put->request.tags = std::move(says.tags);
  auto before = say_anew(*put, object);
  if (!before) return fail_put(*put, std::move(before).error());
  auto& policy = before->place.tier == catalog::kTierDisk ? *disk_policy_ : *memory_policy_;
  policy.touch(object);
  ++count_.refreshed;
  emit(EventKind::kPublished, before->key, object);
  // Those who wait find it. Those who follow have seen nothing yet: for them the put has ended, and
  // they ask again.
  auto answer = std::move(put->done);
  wake_waiters(before->key);
  OM_ASSERT(advance(*put, PutEvent::kAbort));
  drop_room(*put, false);
  end_put(*put, false);
  answer_commit(std::move(answer), {object, before->created_ns}, before->durable);
}

}  // namespace om::store
