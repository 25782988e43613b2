// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Agreements} from "./Agreements.sol";
import {Arithmetic} from "./Arithmetic.sol";
import {TermsLayout} from "./TermsLayout.sol";

/// @title Opening
/// @notice How an agreement begins, never begins, or becomes larger.
abstract contract Opening is Agreements {
    using TermsLayout for Terms;

    function open(
        Terms calldata terms,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external returns (bytes32 id) {
        return _open(terms, requesterSignature, providerSignature);
    }

    function openMany(
        Terms[] calldata terms,
        bytes[] calldata requesterSignatures,
        bytes[] calldata providerSignatures
    ) external returns (bytes32[] memory ids) {
        uint256 count = terms.length;
        if (requesterSignatures.length != count || providerSignatures.length != count) {
            revert Escrow_LengthMismatch();
        }
        ids = new bytes32[](count);
        for (uint256 i; i < count; ++i) {
            ids[i] = _open(terms[i], requesterSignatures[i], providerSignatures[i]);
        }
    }

    function cancel(Terms calldata terms) external {
        if (!_isRequester(terms) && !_isProvider(terms)) revert Escrow_NotParty(msg.sender);
        bytes32 id = agreementId(terms);
        Agreement memory a = _load(id);
        _only(id, a, Status.None);
        a.status = Status.Cancelled;
        _store(id, a);
        emit Cancelled(id);
    }

    function extend(
        Terms calldata terms,
        Extension calldata extension,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) external {
        (bytes32 id, Agreement memory a) = _loadLive(terms);
        _only(id, a, Status.Open);
        _notAfter(_end(terms, a) - 1);
        _names(extension.agreement, id);
        uint256 added = _stepUp(extension.deposit, a.extraDeposit, type(uint96).max);
        uint256 longer = _stepUp(extension.duration, a.extraDuration, MAX_DURATION);
        _notZero(added + longer);
        _term(terms.duration() + extension.duration <= MAX_DURATION, "duration");

        bytes32 digest = extensionDigest(extension);
        _requesterSpends(terms, added, digest, requesterSignature);
        if (longer != 0) {
            _signedByEither(terms.provider(), terms.providerSigner(), digest, providerSignature);
        }

        _takeFree(terms.token(), terms.requester(), added);
        a.extraDeposit = extension.deposit;
        a.extraDuration = extension.duration;
        _store(id, a);
        _storeExtra(id, a);
        emit Extended(id, extension.deposit, extension.duration);
    }

    function _stepUp(uint256 total, uint256 now_, uint256 max) private pure returns (uint256) {
        _within(total, now_, max);
        return total - now_;
    }

    function _open(
        Terms calldata terms,
        bytes calldata requesterSignature,
        bytes calldata providerSignature
    ) private returns (bytes32 id) {
        _checkTerms(terms);
        id = agreementId(terms);
        Agreement memory a = _load(id);
        _only(id, a, Status.None);

        uint256 locked = terms.deposit() + terms.bond();
        _requesterSpends(terms, locked, id, requesterSignature);
        _providerSpends(terms, terms.collateral(), id, providerSignature);

        _takeUnits(terms.provider(), terms.units);
        _takeFree(terms.token(), terms.requester(), locked);
        _takeStake(terms.token(), terms.provider(), terms.collateral());
        a.status = Status.Open;
        a.openedAt = uint40(block.timestamp);
        a.deadline = uint40(block.timestamp + terms.startGrace());
        a.bonded = true;
        _store(id, a);
        _sayOpened(id, terms, a);
    }

    function _sayOpened(bytes32 id, Terms calldata terms, Agreement memory a) private {
        emit Opened(
            id,
            terms.requester(),
            terms.provider(),
            terms.token(),
            uint96(terms.deposit()),
            uint96(terms.collateral()),
            uint96(terms.bond()),
            terms.units,
            a.openedAt,
            a.deadline,
            _end(terms, a)
        );
    }

    function _checkTerms(Terms calldata terms) private view {
        uint256 openBy = terms.openBy();
        if (block.timestamp > openBy) revert Escrow_OpenByPassed(openBy);
        (address requester, address provider) = (terms.requester(), terms.provider());
        _term(
            requester != address(0) && provider != address(0)
                && terms.requesterSigner() != address(0) && terms.providerSigner() != address(0)
                && requester != provider,
            "parties"
        );
        _term(
            terms.slashBps() <= Arithmetic.BPS && terms.victimShareBps() <= Arithmetic.BPS
                && terms.equivocationBps() <= Arithmetic.BPS,
            "bps"
        );
        uint256 duration = terms.duration();
        _term(duration != 0 && duration <= MAX_DURATION, "duration");
        _term(terms.startGrace() <= MAX_DURATION, "startGrace");
        _term(_inside(terms.window(), MIN_WINDOW, MAX_WINDOW), "window");
        _term(_inside(terms.claimWindow(), MIN_CLAIM_WINDOW, MAX_CLAIM_WINDOW), "claimWindow");
        _term(
            terms.arbiter() == address(0)
                || _inside(terms.arbiterWindow(), MIN_WINDOW, MAX_CLAIM_WINDOW),
            "arbiterWindow"
        );
        _term(terms.units != 0, "units");
    }

    function _inside(uint256 n, uint256 min, uint256 max) private pure returns (bool) {
        return n >= min && n <= max;
    }
}
